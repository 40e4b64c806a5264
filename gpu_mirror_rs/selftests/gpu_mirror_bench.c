// SPDX-License-Identifier: GPL-2.0
/*
 * What the operations of a GPU mirror cost when nothing disturbs them, for any
 * driver: test_hmm or gpu_mirror_rs. Beside them stands what the same, or the
 * least that it could be, costs in a process without a mirror.
 *
 * Each row runs in a process of its own, since one that ever had a mirror has
 * its mmu notifiers for good, and each repetition on fresh memory. The first
 * warms up and is not counted; of the others the median counts.
 *
 * Figures for programs are in lines of their own. The cost is that of all pages,
 * in nanoseconds: where the machine's clock counts instructions, in those.
 *   figures: row=NAME driver=0|1 huge=0|1 size=PAGES units=PAGES reps=NUMBER cost=NUMBER
 */
#define _GNU_SOURCE
#include <linux/fs.h>
#include <linux/mman.h>

#include "kselftest.h"
#include "gpu_mirror.h"

#define CLOCK_READS	256
/* Repetitions, and after how many pages there are enough of them. */
#define MIN_REPS	1
#define MAX_REPS	32
#define ENOUGH_PAGES	32768

static const size_t sizes[] = { 64, 4096, 65536 };

/* One row's memory and its device. */
struct bench {
	/* The device, or -1 where there must be no mirror. */
	int fd;
	size_t npages;
	/* Whether huge pages map the memory. */
	bool huge;
	/* What is measured, and as much again that is not. */
	char *mem;
	char *other;
	/* The device's data, of another tag in each repetition. */
	void *data;
	__u64 tag;
};

struct row {
	const char *name;
	bool mirrored;
	/* What comes before and is not measured, what is, and whether it was done right. */
	int (*prepare)(struct bench *b);
	int (*measure)(struct bench *b);
	bool (*check)(struct bench *b);
};

static void map_fresh(struct bench *b, void *mem)
{
	map_at(mem, b->npages, RW);
	advise(mem, b->npages, b->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

/* Writes the word that tells the pages of a repetition from all others. */
static void mark(struct bench *b, void *mem)
{
	size_t page;

	for (page = 0; page < b->npages; page++)
		*(__u64 *)page_at(mem, page) = word_of(b->tag, page, 0);
}

static bool is_marked(const struct bench *b, const void *mem)
{
	size_t page;

	for (page = 0; page < b->npages; page++)
		if (*(__u64 *)page_at(mem, page) != word_of(b->tag, page, 0))
			return false;
	return true;
}

/* Whether every page is in the categories @in (PAGE_IS_*), and none in one of @out. */
static bool all_pages_are(const struct bench *b, __u64 in, __u64 out)
{
	struct page_region region;
	struct pm_scan_arg scan = {
		.size = sizeof(scan),
		.start = (uintptr_t)b->mem,
		.end = (uintptr_t)page_at(b->mem, b->npages),
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_inverted = out,
		.category_mask = in | out,
		.return_mask = in | out,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY), found;

	if (fd < 0)
		die("/proc/self/pagemap");
	found = ioctl(fd, PAGEMAP_SCAN, &scan);
	if (found < 0)
		die("PAGEMAP_SCAN");
	close(fd);
	return found && region.start == scan.start && region.end == scan.end;
}

static bool is_mapped_as_asked(struct bench *b)
{
	return b->huge ? all_pages_are(b, PAGE_IS_PRESENT | PAGE_IS_HUGE, 0) :
			 all_pages_are(b, PAGE_IS_PRESENT, PAGE_IS_HUGE);
}

static bool is_done(struct bench *b)
{
	return true;
}

static int populate(struct bench *b)
{
	mark(b, b->mem);
	return is_mapped_as_asked(b) ? 0 : -ENOMEM;
}

static int read_pages(struct bench *b)
{
	return device_read(b->fd, b->mem, b->data, b->npages);
}

static int populate_and_read(struct bench *b)
{
	return populate(b) ?: read_pages(b);
}

static bool data_is_marked(struct bench *b)
{
	return is_marked(b, b->data);
}

/* What the device writes comes from memory of a different mark. */
static int write_pages(struct bench *b)
{
	return device_write(b->fd, b->mem, b->data, b->npages);
}

static int mark_data(struct bench *b)
{
	b->tag++;
	mark(b, b->data);
	return 0;
}

static int populate_and_write(struct bench *b)
{
	return populate(b) ?: mark_data(b) ?: write_pages(b) ?: mark_data(b);
}

static bool memory_is_marked(struct bench *b)
{
	return is_mapped_as_asked(b) && is_marked(b, b->mem);
}

/* The least that a transfer can be: one copy, in the way in which the kernel copies to a user. */
static int copy(struct bench *b)
{
	size_t size = b->npages * page_size();
	void *to = b->data, *from = b->mem;

#ifdef __x86_64__
	asm volatile("rep movsb" : "+D" (to), "+S" (from), "+c" (size) : : "memory");
#else
	memcpy(to, from, size);
#endif
	return 0;
}

static int snapshot(struct bench *b)
{
	return device_snapshot(b->fd, b->mem, b->data, b->npages);
}

static bool snapshot_is_right(struct bench *b)
{
	unsigned char right = HMM_DMIRROR_PROT_WRITE | (b->huge ? HMM_DMIRROR_PROT_PMD : 0);
	const unsigned char *seen = b->data;

	return seen[0] == right && !memcmp(seen, seen + 1, b->npages - 1);
}

/* The kernel's own walk over page tables that tells a byte of each page. */
static int look(struct bench *b)
{
	return mincore(b->mem, b->npages * page_size(), b->data) ? -errno : 0;
}

static bool all_in_core(struct bench *b)
{
	const unsigned char *seen = b->data;

	return seen[0] == 1 && !memcmp(seen, seen + 1, b->npages - 1);
}

static int set_read_only(struct bench *b)
{
	protect(b->mem, b->npages, PROT_READ);
	return 0;
}

/*
 * The device has mirrored memory, though not what changes. How long C looks for
 * that in its XArray depends on the address. So it is another one in each
 * repetition, and they are the same for all drivers.
 */
static int populate_and_read_other(struct bench *b)
{
	__u64 place = (b->tag * 0x9e3779b97f4a7c15ULL) >> 40;

	unmap(b->mem, b->npages);
	unmap(b->other, b->npages);
	b->mem = (char *)0x100000000000 + place * HUGE_PAGES * page_size();
	b->other = b->mem - (b->npages + HUGE_PAGES) * page_size();
	map_fresh(b, b->mem);
	map_fresh(b, b->other);
	mark(b, b->other);
	return populate(b) ?: device_read(b->fd, b->other, b->data, b->npages);
}

static int unmap_pages(struct bench *b)
{
	unmap(b->mem, b->npages);
	return 0;
}

/* Whether pages are counted by their size is the driver's affair. */
static int migrate(struct bench *b, unsigned long request)
{
	struct hmm_dmirror_cmd cmd;

	return device_command(b->fd, request, b->mem, b->data, b->npages, &cmd);
}

static int migrate_to_device(struct bench *b)
{
	return migrate(b, HMM_DMIRROR_MIGRATE_TO_DEV);
}

static bool is_in_device(struct bench *b)
{
	return all_pages_are(b, 0, PAGE_IS_PRESENT) && data_is_marked(b);
}

static int populate_and_migrate(struct bench *b)
{
	int ret = populate(b) ?: migrate_to_device(b);

	return ret ?: is_in_device(b) ? 0 : -EIO;
}

static int migrate_to_system(struct bench *b)
{
	return migrate(b, HMM_DMIRROR_MIGRATE_TO_SYS);
}

static bool is_in_system(struct bench *b)
{
	return all_pages_are(b, PAGE_IS_PRESENT, 0) && is_marked(b, b->mem);
}

static int touch_again(struct bench *b)
{
	return is_marked(b, b->mem) ? 0 : -EIO;
}

static const struct row rows[] = {
	{ "copy", false, populate, copy, data_is_marked },
	{ "read_cold", true, populate, read_pages, data_is_marked },
	{ "read_warm", true, populate_and_read, read_pages, data_is_marked },
	{ "write_warm", true, populate_and_write, write_pages, memory_is_marked },
	{ "fault", true, mark_data, write_pages, memory_is_marked },
	{ "mincore", false, populate, look, all_in_core },
	{ "snapshot", true, populate, snapshot, snapshot_is_right },
	{ "mprotect_bare", false, populate, set_read_only, is_done },
	{ "mprotect", true, populate_and_read, set_read_only, is_done },
	{ "mprotect_unrelated", true, populate_and_read_other, set_read_only, is_done },
	{ "munmap_bare", false, populate, unmap_pages, is_done },
	{ "munmap", true, populate_and_read, unmap_pages, is_done },
	/*
	 * The device does not touch what has migrated: in C, where it must fault
	 * that in again, the kernel oopses.
	 */
	{ "to_device", true, populate, migrate_to_device, is_in_device },
	{ "to_system", true, populate_and_migrate, migrate_to_system, is_in_system },
	{ "fault_back", true, populate_and_migrate, touch_again, is_in_system },
};

/* One repetition: -errno, or what it cost in @cost. */
static int repeat(const struct row *row, struct bench *b, __u64 *cost)
{
	__u64 start;
	int ret;

	b->tag++;
	map_fresh(b, b->mem);
	ret = row->prepare(b);
	if (ret)
		return ret;
	start = now();
	ret = row->measure(b);
	*cost = now() - start;
	if (!ret && !row->check(b))
		ret = -EIO;
	unmap(b->mem, b->npages);
	return ret;
}

/* What it costs to measure. */
static __u64 cost_of_nothing(void)
{
	__u64 least = ~0ULL;
	int i;

	for (i = 0; i < CLOCK_READS; i++) {
		__u64 start = now();
		__u64 cost = now() - start;

		least = cost < least ? cost : least;
	}
	return least;
}

static size_t repetitions(size_t npages)
{
	size_t reps = ENOUGH_PAGES / npages;

	return reps < MIN_REPS ? MIN_REPS : reps > MAX_REPS ? MAX_REPS : reps;
}

static int compare_costs(const void *a, const void *b)
{
	const __u64 *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static __u64 median(__u64 *costs, size_t n)
{
	qsort(costs, n, sizeof(*costs), compare_costs);
	return (costs[(n - 1) / 2] + costs[n / 2]) / 2;
}

/* In a process of its own. The status is for the parent. */
static int run(const struct row *row, size_t npages, bool huge)
{
	struct bench b = {
		.fd = row->mirrored ? device_open(0) : -1,
		.npages = npages,
		.huge = huge,
		.mem = map_aligned(npages),
		.other = map_aligned(npages),
		.data = map_aligned(npages),
	};
	size_t reps = repetitions(npages), i;
	__u64 costs[1 + MAX_REPS], nothing, cost;

	if (row->mirrored && b.fd < 0)
		return KSFT_FAIL;
	map_at(b.data, npages, RW);
	advise(b.data, npages, MADV_NOHUGEPAGE);
	mark(&b, b.data);
	nothing = cost_of_nothing();
	for (i = 0; i <= reps; i++) {
		int ret = repeat(row, &b, &costs[i]);

		if (ret == -EOPNOTSUPP)
			return KSFT_SKIP;
		if (ret) {
			ksft_print_msg("%s fails with %s\n", row->name, strerror(-ret));
			return KSFT_FAIL;
		}
	}
	cost = median(costs + 1, reps);
	printf("figures: row=%s driver=%d huge=%d size=%zu units=%zu reps=%zu cost=%llu\n",
	       row->name, row->mirrored, huge, npages, npages, reps,
	       cost > nothing ? cost - nothing : 0);
	return KSFT_PASS;
}

/* A row, at a size. */
struct test {
	const struct row *row;
	size_t npages;
	bool huge;
};

static void report(const struct test *test)
{
	const char *huge = test->huge ? ", huge" : "";
	const char *name = test->row->name;
	int status;
	pid_t pid;

	fflush(stdout);
	pid = start_child();
	if (!pid) {
		status = run(test->row, test->npages, test->huge);
		fflush(stdout);
		_exit(status);
	}
	status = wait_child(pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == KSFT_SKIP)
		ksft_test_result_skip("%s, %zu pages%s: not in this driver\n", name, test->npages,
				      huge);
	else
		ksft_test_result(!status, "%s, %zu pages%s\n", name, test->npages, huge);
}

static bool is_chosen(const struct row *row, char **names)
{
	char **name;

	for (name = names; *name; name++)
		if (!strcmp(*name, row->name))
			return true;
	return !*names;
}

int main(int argc, char **argv)
{
	static struct test tests[2 * ARRAY_SIZE(sizes) * ARRAY_SIZE(rows)];
	size_t ntests = 0, only = 0, i, j;
	int opt;

	while ((opt = getopt(argc, argv, "n:")) != -1) {
		if (opt != 'n') {
			fprintf(stderr, "usage: %s [-n PAGES] [ROW]...\n", argv[0]);
			return KSFT_FAIL;
		}
		only = atoll(optarg);
	}
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		if (only && sizes[i] != only)
			continue;
		for (j = 0; j < ARRAY_SIZE(rows); j++) {
			if (!is_chosen(&rows[j], argv + optind))
				continue;
			tests[ntests++] = (struct test){ &rows[j], sizes[i], false };
			if (sizes[i] % HUGE_PAGES == 0)
				tests[ntests++] = (struct test){ &rows[j], sizes[i], true };
		}
	}
	ksft_print_header();
	ksft_set_plan(ntests);
	for (i = 0; i < ntests; i++)
		report(&tests[i]);
	/* So that whoever waits for the program can remove the driver. */
	if (!module_is_released())
		ksft_print_msg("the driver's module is still in use\n");
	ksft_finished();
}
