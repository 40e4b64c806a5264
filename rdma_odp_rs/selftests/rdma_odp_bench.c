// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * What RDMA on-demand paging costs when nothing disturbs it, for any driver.
 * Beside each row stands what the same costs on a pinned region, on one whose
 * pages are known, or without a region.
 *
 * Both ends of a transfer are in one process: the requester reads what it sends
 * from one region (near), the responder writes it to another (far). Rows say
 * which of them pages on demand.
 *
 * Each row runs in a process of its own, since one that ever had a region has
 * its mmu notifiers for good. The first repetitions warm up and are not counted;
 * of the others the median counts.
 *
 * Figures for programs are in lines of their own. The cost is that of all units,
 * in nanoseconds: where the machine's clock counts instructions, in those.
 *   figures: row=NAME driver=0|1 huge=0|1 size=NUMBER units=NUMBER reps=NUMBER cost=NUMBER
 *            right=0|1
 *
 * Where the driver moves wrong data, that is a failure, but with -w. The figure is
 * of use either way.
 */
#define _GNU_SOURCE
#include <linux/fs.h>

#include "kselftest.h"
#include "rdma_odp.h"

#define CLOCK_READS	256
#define WARM_UPS	2
#define REPS		15
/*
 * What a message costs depends on what others have left in the allocator, by as
 * much as paging adds. Rows of the same size are measured in as many rounds, in
 * another order in each of them.
 */
#define PROCESSES	7
/*
 * The driver counts up the numbers of queue pairs and regions, and finds those
 * of 64 and more, and then of 4096, by one step more. No row is measured below.
 */
#define FIRST_NUMBER	64

/* How much is registered for rows that count pages, and how that is moved. */
#define PAGES		1024UL
#define CHUNK		(64 * KIB)
/* Single cold messages, and how far apart they are where they share nothing. */
#define TOUCHES		64UL
#define STRIDE		(64 * PAGE)
/* Messages of a repetition. */
#define MESSAGES	32UL
#define ROUNDS		16UL
#define MAX_WRITES	64UL
/* Regions that come and go beside those that stay. */
#define NEWCOMERS	16UL

#define ADDED(x)	((x) ? ODP : 0)

enum side {
	NEITHER = 0,
	NEAR = 1,
	FAR = 2,
	BOTH = NEAR | FAR,
};

/* One row's regions and memory. */
struct bench {
	struct link link;
	struct region near;
	struct region far;
	/* Of as many pages, with a region on every other one, or on none. */
	char *slots;
	struct ibv_mr **stay;
	struct ibv_mr *come[NEWCOMERS];
	size_t size;
	/* Whether huge pages map the far memory. */
	bool huge;
	enum side paged;
	/* Counts repetitions. */
	size_t rep;
};

/* What a row's size is: it says how much is measured, and how often. */
enum scale {
	BYTES,
	REGIONS,
	ALL_PAGES,
};

struct row {
	const char *name;
	enum scale scale;
	enum side paged;
	/* Whether there must be no device. */
	bool bare;
	/* How many units a repetition has. */
	size_t units;
	/* What comes first, before each repetition, what is measured, and whether it was right. */
	bool (*set_up)(struct bench *b);
	bool (*prepare)(struct bench *b);
	bool (*measure)(struct bench *b);
	bool (*check)(struct bench *b);
};

static __u64 clock_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

static bool is_right(struct bench *b)
{
	return true;
}

static bool nothing(struct bench *b)
{
	return true;
}

static void touch(void *mem, size_t size)
{
	size_t at;

	for (at = 0; at < size; at += PAGE)
		__atomic_store_n((char *)mem + at, at / PAGE, __ATOMIC_RELAXED);
}

/* Whether each page is there, and all of them are huge or none is. */
static bool is_mapped_as_asked(const struct bench *b, const void *mem, size_t size)
{
	struct page_region region;
	struct pm_scan_arg scan = {
		.size = sizeof(scan),
		.start = (uintptr_t)mem,
		.end = (uintptr_t)mem + size,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_inverted = b->huge ? 0 : PAGE_IS_HUGE,
		.category_mask = PAGE_IS_PRESENT | PAGE_IS_HUGE,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_HUGE,
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

static void map_fresh(const struct bench *b, void *mem, size_t size)
{
	map_at(mem, size, RW);
	advise(mem, size, b->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

/* The two regions, of a size, with data to be sent. */
static bool make_regions(struct bench *b, size_t near, size_t far)
{
	bool huge = b->huge;

	b->huge = false;
	b->near.mem = map_kind(ANON, near);
	map_fresh(b, b->near.mem, near);
	fill(b->near.mem, near, b->size);
	b->huge = huge;
	b->near = region_on(&b->link, b->near.mem, near, ALL_ACCESS | ADDED(b->paged & NEAR));
	b->far.mem = map_kind(ANON, far);
	map_fresh(b, b->far.mem, far);
	b->far = region_on(&b->link, b->far.mem, far, ALL_ACCESS | ADDED(b->paged & FAR));
	return b->near.mr && b->far.mr;
}

/* Writes to places that are  apart, all of them handed over at once. */
static bool write_each(struct bench *b, size_t count, size_t stride, size_t size)
{
	static struct ibv_send_wr wrs[MAX_WRITES];
	struct ibv_sge sge = {
		.addr = at(&b->near, b->near.mem),
		.length = size,
		.lkey = b->near.mr->lkey,
	};
	size_t i;

	for (i = 0; i < count; i++)
		wrs[i] = (struct ibv_send_wr) {
			.next = i + 1 < count ? &wrs[i + 1] : NULL,
			.sg_list = &sge,
			.num_sge = 1,
			.opcode = IBV_WR_RDMA_WRITE,
			.send_flags = i + 1 < count ? 0 : IBV_SEND_SIGNALED,
			.wr.rdma.remote_addr = at(&b->far, b->far.mem + i * stride),
			.wr.rdma.rkey = b->far.mr->rkey,
		};
	return post_send(&b->link, wrs) && end_moves(&b->link, WRITE, 1) == IBV_WC_SUCCESS;
}

/* Writes to the same place time after time. */
static bool set_up_messages(struct bench *b)
{
	return make_regions(b, b->size, b->size);
}

static bool write_messages(struct bench *b)
{
	return write_each(b, MESSAGES, 0, b->size);
}

static bool has_data(struct bench *b)
{
	return !memcmp(b->far.mem, b->near.mem, b->size);
}

/* A message there and back, by turns. */
static bool answer(struct link *link, const struct region *to, const struct region *from,
		   size_t size, bool back)
{
	struct ibv_sge sge = { .addr = at(to, to->mem), .length = size, .lkey = to->mr->lkey };
	struct ibv_recv_wr recv = { .sg_list = &sge, .num_sge = 1 }, *bad_recv;
	struct ibv_sge data = { .addr = at(from, from->mem), .length = size,
				.lkey = from->mr->lkey };
	struct ibv_send_wr send = { .sg_list = &data, .num_sge = 1, .opcode = IBV_WR_SEND },
			   *bad_send;
	struct ibv_wc wc = {};

	if (ibv_post_recv(back ? link->qp : link->peer, &recv, &bad_recv) ||
	    ibv_post_send(back ? link->peer : link->qp, &send, &bad_send))
		return false;
	if (!(back ? wait_on(link->cq, link->channel, &wc) :
		     wait_on(link->peer_cq, link->peer_channel, &wc)))
		return false;
	return wc.status == IBV_WC_SUCCESS && wc.opcode == IBV_WC_RECV;
}

static bool play(struct bench *b)
{
	size_t i;

	for (i = 0; i < ROUNDS; i++)
		if (!answer(&b->link, &b->far, &b->near, b->size, false) ||
		    !answer(&b->link, &b->near, &b->far, b->size, true))
			return false;
	return true;
}

/* Rows of a large far region, which is another one in each repetition. */
static bool set_up_pages(struct bench *b)
{
	return make_regions(b, CHUNK, b->size * PAGE);
}

static bool give_up_far(struct bench *b)
{
	bool done = !b->far.mr || !ibv_dereg_mr(b->far.mr);

	b->far.mr = NULL;
	map_fresh(b, b->far.mem, b->far.size);
	return done;
}

static bool register_far(struct bench *b)
{
	b->far.mr = ibv_reg_mr(b->link.pd, b->far.mem, b->far.size,
			       ALL_ACCESS | ADDED(b->paged & FAR));
	return b->far.mr;
}

/* The driver knows no page of it: there is none. */
static bool renew(struct bench *b)
{
	return give_up_far(b) && register_far(b);
}

/* The driver knows no page of it: they came later. */
static bool renew_and_touch(struct bench *b)
{
	if (!renew(b))
		return false;
	touch(b->far.mem, b->far.size);
	return is_mapped_as_asked(b, b->far.mem, b->far.size);
}

static bool touch_unregistered(struct bench *b)
{
	if (!give_up_far(b))
		return false;
	touch(b->far.mem, b->far.size);
	return is_mapped_as_asked(b, b->far.mem, b->far.size);
}

static bool write_pages(struct bench *b)
{
	return write_each(b, b->far.size / CHUNK, CHUNK, CHUNK);
}

static bool renew_and_write(struct bench *b)
{
	return renew_and_touch(b) && write_pages(b);
}

static bool far_has_data(struct bench *b)
{
	size_t at;

	for (at = 0; at < b->far.size; at += CHUNK)
		if (memcmp(b->far.mem + at, b->near.mem, CHUNK))
			return false;
	return is_mapped_as_asked(b, b->far.mem, b->far.size);
}

static bool prefetch(struct bench *b)
{
	return !advise_range(&b->link, IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, true, &b->far,
			     b->far.mem, b->far.size);
}

static bool renew_and_prefetch(struct bench *b)
{
	return renew_and_touch(b) && prefetch(b);
}

static bool set_read_only(struct bench *b)
{
	protect(b->far.mem, b->far.size, PROT_READ);
	return true;
}

static bool deregister_far(struct bench *b)
{
	bool done = !ibv_dereg_mr(b->far.mr);

	b->far.mr = NULL;
	return done;
}

static bool touch_and_register(struct bench *b)
{
	return touch_unregistered(b) && register_far(b);
}

/* The same memory without a region, or even a device. */
static bool set_up_bare_pages(struct bench *b)
{
	b->far.size = b->size * PAGE;
	b->far.mem = map_kind(ANON, b->far.size);
	return true;
}

static bool touch_bare(struct bench *b)
{
	map_fresh(b, b->far.mem, b->far.size);
	touch(b->far.mem, b->far.size);
	return is_mapped_as_asked(b, b->far.mem, b->far.size);
}

/* Cold messages of a few bytes: each has others for neighbours, or none. */
static bool set_up_touches(struct bench *b)
{
	return make_regions(b, CHUNK, TOUCHES * STRIDE);
}

static bool write_far_apart(struct bench *b)
{
	return write_each(b, TOUCHES, STRIDE, b->size);
}

static bool write_next_to(struct bench *b)
{
	return write_each(b, TOUCHES, PAGE, b->size);
}

/* Rows of many regions, each of a page. */
static char *slot(const struct bench *b, size_t i)
{
	return b->slots + i * PAGE;
}

static size_t slots(const struct bench *b)
{
	return 2 * (b->size > NEWCOMERS ? b->size : NEWCOMERS);
}

static struct ibv_mr *register_slot(struct bench *b, size_t i)
{
	return ibv_reg_mr(b->link.pd, slot(b, i), PAGE, ALL_ACCESS | ODP);
}

static bool set_up_bare_slots(struct bench *b)
{
	b->slots = map_kind(ANON, slots(b) * PAGE);
	map_fresh(b, b->slots, slots(b) * PAGE);
	touch(b->slots, slots(b) * PAGE);
	return true;
}

static bool set_up_slots(struct bench *b)
{
	size_t i;

	set_up_bare_slots(b);
	b->near.mem = map_kind(ANON, PAGE);
	b->near = region_on(&b->link, b->near.mem, PAGE, ALL_ACCESS);
	b->stay = calloc(b->size, sizeof(*b->stay));
	for (i = 0; i < b->size; i++) {
		b->stay[i] = register_slot(b, 2 * i);
		if (!b->stay[i])
			return false;
	}
	return b->near.mr;
}

/* Newcomers are between those that stay, all over the place. */
static bool come(struct bench *b)
{
	size_t i;

	for (i = 0; i < NEWCOMERS; i++) {
		b->come[i] = register_slot(b, 2 * (i * slots(b) / 2 / NEWCOMERS) + 1);
		if (!b->come[i])
			return false;
	}
	return true;
}

static bool go(struct bench *b)
{
	size_t i;

	for (i = 0; i < NEWCOMERS; i++) {
		if (b->come[i] && ibv_dereg_mr(b->come[i]))
			return false;
		b->come[i] = NULL;
	}
	return true;
}

/* Which of those that stay is next. */
static size_t stayer(const struct bench *b)
{
	__u64 state = b->rep;

	return next_random(&state) % b->size;
}

static bool write_to_stayer(struct bench *b)
{
	size_t i = stayer(b);
	struct region far = { .mem = slot(b, 2 * i), .size = PAGE, .mr = b->stay[i] };

	return move(&b->link, WRITE, &far, far.mem, &b->near, b->near.mem, 8) == IBV_WC_SUCCESS;
}

static bool touch_stayer(struct bench *b)
{
	touch(slot(b, 2 * stayer(b)), PAGE);
	return true;
}

static bool touch_neighbour(struct bench *b)
{
	touch(slot(b, 2 * stayer(b) + 1), PAGE);
	return true;
}

static bool drop_stayer(struct bench *b)
{
	advise(slot(b, 2 * stayer(b)), PAGE, MADV_DONTNEED);
	return true;
}

static bool drop_neighbour(struct bench *b)
{
	advise(slot(b, 2 * stayer(b) + 1), PAGE, MADV_DONTNEED);
	return true;
}

#define MESSAGE_ROW(name, paged) \
	{ name, BYTES, paged, false, MESSAGES, set_up_messages, nothing, write_messages, has_data }
#define PLAY_ROW(name, paged) \
	{ name, BYTES, paged, false, ROUNDS, set_up_messages, nothing, play, has_data }

static const struct row rows[] = {
	MESSAGE_ROW("write_pinned", NEITHER),
	MESSAGE_ROW("write_near", NEAR),
	MESSAGE_ROW("write_far", FAR),
	MESSAGE_ROW("write", BOTH),
	PLAY_ROW("pingpong_pinned", NEITHER),
	PLAY_ROW("pingpong", BOTH),
	{ "touch_pinned", BYTES, NEITHER, false, TOUCHES, set_up_touches, nothing,
	  write_far_apart, is_right },
	{ "touch", BYTES, FAR, false, TOUCHES, set_up_touches, renew_and_touch,
	  write_far_apart, is_right },
	{ "touch_next", BYTES, FAR, false, TOUCHES, set_up_touches, renew_and_touch,
	  write_next_to, is_right },
	{ "pages_pinned", ALL_PAGES, NEITHER, false, PAGES, set_up_pages, renew_and_write,
	  write_pages, far_has_data },
	{ "pages_known", ALL_PAGES, FAR, false, PAGES, set_up_pages, renew_and_write,
	  write_pages, far_has_data },
	{ "pages_mapped", ALL_PAGES, FAR, false, PAGES, set_up_pages, renew_and_touch,
	  write_pages, far_has_data },
	{ "pages_untouched", ALL_PAGES, FAR, false, PAGES, set_up_pages, renew,
	  write_pages, far_has_data },
	{ "prefetch", ALL_PAGES, FAR, false, PAGES, set_up_pages, renew_and_touch, prefetch,
	  is_right },
	{ "register_pages", ALL_PAGES, FAR, false, PAGES, set_up_pages, touch_unregistered,
	  register_far, is_right },
	{ "deregister_pages", ALL_PAGES, FAR, false, PAGES, set_up_pages, touch_and_register,
	  deregister_far, is_right },
	{ "mprotect_bare", ALL_PAGES, NEITHER, true, PAGES, set_up_bare_pages, touch_bare,
	  set_read_only, is_right },
	{ "mprotect", ALL_PAGES, FAR, false, PAGES, set_up_pages, renew_and_prefetch,
	  set_read_only, is_right },
	{ "register", REGIONS, FAR, false, NEWCOMERS, set_up_slots, go, come, is_right },
	{ "deregister", REGIONS, FAR, false, NEWCOMERS, set_up_slots, come, go, is_right },
	{ "dontneed_bare", REGIONS, NEITHER, true, 1, set_up_bare_slots, touch_stayer,
	  drop_stayer, is_right },
	{ "dontneed", REGIONS, FAR, false, 1, set_up_slots, write_to_stayer, drop_stayer,
	  is_right },
	{ "dontneed_beside", REGIONS, FAR, false, 1, set_up_slots, touch_neighbour,
	  drop_neighbour, is_right },
};

/* A row at a size. */
struct test {
	const struct row *row;
	size_t size;
	bool huge;
};

/* What it costs to measure. */
static __u64 cost_of_nothing(void)
{
	__u64 least = ~0ULL;
	int i;

	for (i = 0; i < CLOCK_READS; i++) {
		__u64 start = clock_ns();
		__u64 cost = clock_ns() - start;

		least = cost < least ? cost : least;
	}
	return least;
}

static int compare_costs(const void *a, const void *b)
{
	const __u64 *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void fails(const struct row *row, const struct bench *b, const char *what)
{
	ksft_print_msg("%s at %zu: %s: %s\n", row->name, b->size, what,
		       ibv_wc_status_str(b->link.status));
}

struct outcome {
	__u64 cost;
	bool done;
	bool right;
};

static struct outcome run(const struct test *test, bool may_be_wrong)
{
	const struct row *row = test->row;
	struct bench b = { .size = test->size, .huge = test->huge, .paged = row->paged };
	__u64 costs[WARM_UPS + REPS], nothing, start, cost;
	struct outcome failed = {}, outcome = { .right = true };

	if (!row->bare && !link_open(&b.link)) {
		ksft_print_msg(NO_DEVICE "\n");
		return failed;
	}
	if (!row->set_up(&b)) {
		fails(row, &b, "cannot be set up");
		return failed;
	}
	nothing = cost_of_nothing();
	for (b.rep = 0; b.rep < WARM_UPS + REPS; b.rep++) {
		bool done;

		if (!row->prepare(&b)) {
			fails(row, &b, "cannot be prepared");
			return failed;
		}
		start = clock_ns();
		done = row->measure(&b);
		costs[b.rep] = clock_ns() - start;
		if (!done) {
			fails(row, &b, "fails");
			return failed;
		}
		outcome.right = outcome.right && row->check(&b);
	}
	qsort(costs + WARM_UPS, REPS, sizeof(*costs), compare_costs);
	cost = costs[WARM_UPS + REPS / 2];
	outcome.cost = cost > nothing ? cost - nothing : 0;
	outcome.done = outcome.right || may_be_wrong;
	if (!outcome.done)
		fails(row, &b, "moves wrong data");
	return outcome;
}

/* The same in a process of its own. */
static struct outcome run_apart(const struct test *test, bool may_be_wrong)
{
	struct outcome outcome = {};
	int ends[2];
	pid_t pid;

	fflush(stdout);
	if (pipe(ends))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		outcome = run(test, may_be_wrong);
		fflush(stdout);
		_exit(write(ends[1], &outcome, sizeof(outcome)) != sizeof(outcome));
	}
	close(ends[1]);
	if (read(ends[0], &outcome, sizeof(outcome)) != sizeof(outcome))
		outcome = (struct outcome){};
	close(ends[0]);
	if (waitpid(pid, NULL, 0) != pid)
		die("waitpid");
	return outcome;
}

static void print_figures(const struct test *test, __u64 cost, bool right)
{
	const struct row *row = test->row;

	printf("figures: row=%s driver=%d huge=%d size=%zu units=%zu reps=%d cost=%llu right=%d\n",
	       row->name, !row->bare, test->huge, test->size, row->units, REPS, cost, right);
}

/* Runs tests by turns, and reports each. */
static void report(const struct test *tests, size_t ntests, size_t processes, bool may_be_wrong)
{
	struct {
		bool failed, wrong;
		__u64 costs[PROCESSES];
	} *of = calloc(ntests, sizeof(*of));
	size_t round, i;

	if (!of)
		die("calloc");
	for (round = 0; round < processes; round++) {
		for (i = 0; i < ntests; i++) {
			size_t at = (i + round) % ntests;
			struct outcome outcome = {};

			if (!of[at].failed)
				outcome = run_apart(&tests[at], may_be_wrong);
			of[at].failed = !outcome.done;
			of[at].wrong = of[at].wrong || !outcome.right;
			of[at].costs[round] = outcome.cost;
		}
	}
	for (i = 0; i < ntests; i++) {
		const struct test *test = &tests[i];
		const struct row *row = test->row;

		qsort(of[i].costs, processes, sizeof(*of[i].costs), compare_costs);
		if (!of[i].failed)
			print_figures(test, of[i].costs[processes / 2], !of[i].wrong);
		ksft_test_result(!of[i].failed, "%s at %zu%s\n", row->name, test->size,
				 test->huge ? ", huge" : "");
	}
	free(of);
}

/* Uses the low numbers up, if there is a driver. */
static void use_up_numbers(void)
{
	void *mem[] = { map_kind(ANON, PAGE), map_kind(ANON, PAGE) };
	size_t i;
	pid_t pid;

	for (i = 0; i < FIRST_NUMBER / 2; i++) {
		pid = fork();
		if (pid < 0)
			die("fork");
		if (!pid) {
			struct link link;

			if (link_open(&link) && !(region_on(&link, mem[0], PAGE, ALL_ACCESS).mr &&
						  region_on(&link, mem[1], PAGE, ALL_ACCESS).mr))
				die("cannot register regions");
			_exit(0);
		}
		if (waitpid(pid, NULL, 0) != pid)
			die("waitpid");
	}
}

static bool is_chosen(const struct row *row, char **names)
{
	char **name;

	for (name = names; *name; name++)
		if (!strcmp(*name, row->name))
			return true;
	return !*names;
}

/* The sizes of a row, 0 behind the last one. */
static const size_t *sizes_of(const struct row *row)
{
	static const size_t bytes[] = { 8, KIB, 64 * KIB, 0 };
	static const size_t few_bytes[] = { 8, 0 };
	static const size_t regions[] = { 1, 100, 10000, 0 };
	static const size_t pages[] = { PAGES, 0 };

	switch (row->scale) {
	case BYTES:
		return row->set_up == set_up_touches ? few_bytes : bytes;
	case REGIONS:
		return regions;
	default:
		return pages;
	}
}

static bool is_message_of(const struct row *row, size_t wanted)
{
	const size_t *size;

	for (size = sizes_of(row); row->scale == BYTES && *size; size++)
		if (*size == wanted)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	static struct test tests[4 * ARRAY_SIZE(rows)];
	static const size_t sizes[] = { 8, KIB, 64 * KIB };
	size_t nmessages[ARRAY_SIZE(sizes)], ntests = 0, first, i;
	const struct row *row, *end = rows + ARRAY_SIZE(rows);
	bool may_be_wrong = false;
	const size_t *size;
	int opt;

	while ((opt = getopt(argc, argv, "w")) != -1) {
		if (opt != 'w') {
			fprintf(stderr, "usage: %s [-w] [ROW]...\n", argv[0]);
			return KSFT_FAIL;
		}
		may_be_wrong = true;
	}
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		first = ntests;
		for (row = rows; row < end; row++)
			if (is_chosen(row, argv + optind) && is_message_of(row, sizes[i]))
				tests[ntests++] = (struct test){ row, sizes[i], false };
		nmessages[i] = ntests - first;
	}
	for (row = rows; row < end; row++) {
		if (!is_chosen(row, argv + optind) || row->scale == BYTES)
			continue;
		for (size = sizes_of(row); *size; size++) {
			tests[ntests++] = (struct test){ row, *size, false };
			if (row->scale == ALL_PAGES)
				tests[ntests++] = (struct test){ row, *size, true };
		}
	}
	ksft_print_header();
	ksft_set_plan(ntests);
	use_up_numbers();
	for (first = 0, i = 0; i < ARRAY_SIZE(sizes); first += nmessages[i++])
		report(&tests[first], nmessages[i], PROCESSES, may_be_wrong);
	for (; first < ntests; first++)
		report(&tests[first], 1, 1, may_be_wrong);
	ksft_finished();
}
