// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * Transfers while memory changes under them: one thread protects, frees, moves,
 * copies or registers the pages of a region in a loop, another one has the
 * device write and read them. What the device wrote is what the process finds,
 * and the device finds it too: byte for byte, unless the change throws it away.
 */
#include <sys/sysinfo.h>

#include "kselftest_harness.h"
#include "rdma_odp.h"

#define TIMEOUT		300

#define NPAGES		16
#define SIZE		(NPAGES * PAGE)
/* A byte of each page that is the process's own. */
#define OWN		(PAGE - 1)

#define TRANSFERS	60
#define CHANGES		30
/* However often the device is refused, or the storm is slow. */
#define MOST_TRANSFERS	3000

#define COMPACT		"/proc/sys/vm/compact_memory"

struct storm {
	struct link *link;
	struct region region;
	struct region spare;
	int fd;
	/* What is moved of each page. */
	size_t offset;
	size_t length;
	/* Transfers that have begun, and changes that are over. */
	unsigned int begun;
	unsigned int changes;
	bool over;
	pthread_t thread;
};

static void no_change(struct storm *s)
{
	sched_yield();
}

static void set_read_only(struct storm *s)
{
	protect(s->region.mem, SIZE, PROT_READ);
	protect(s->region.mem, SIZE, RW);
}

static void map_file(struct storm *s)
{
	if (mmap(s->region.mem, SIZE, RW, MAP_SHARED | MAP_FIXED, s->fd, 0) != s->region.mem)
		die("mmap");
}

static void unmap_and_map(struct storm *s)
{
	unmap(s->region.mem, SIZE);
	map_file(s);
}

static void map_anew(struct storm *s)
{
	map_at(s->region.mem, SIZE, RW);
}

static void move_away_and_back(struct storm *s)
{
	char *from = s->region.mem, *to = s->spare.mem;

	if (mremap(from, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to ||
	    mremap(to, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, from) != from)
		die("mremap");
}

static void write_pages(struct storm *s)
{
	size_t page;

	for (page = 0; page < NPAGES; page++)
		__atomic_add_fetch(s->region.mem + page * PAGE + OWN, 1, __ATOMIC_RELAXED);
}

/* Each page is copied by whoever is the first to write it. */
static void copy_on_write(struct storm *s)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (!child)
		_exit(0);
	write_pages(s);
	if (waitpid(child, NULL, 0) != child)
		die("waitpid");
}

static void free_pages(struct storm *s)
{
	advise(s->region.mem, SIZE, MADV_DONTNEED);
}

static void compact(struct storm *s)
{
	int fd = open(COMPACT, O_WRONLY);

	if (fd < 0 || write(fd, "1", 1) != 1)
		die(COMPACT);
	close(fd);
}

/* To protect a page for a moment splits the huge one, so that there is one to make again. */
static void collapse(struct storm *s)
{
	protect(s->region.mem + HUGE_PAGE - PAGE, PAGE, PROT_READ);
	protect(s->region.mem + HUGE_PAGE - PAGE, PAGE, RW);
	madvise(s->region.mem, HUGE_PAGE, MADV_COLLAPSE);
}

static void page_out(struct storm *s)
{
	advise(s->region.mem, SIZE, MADV_PAGEOUT);
}

static void register_more(struct storm *s)
{
	struct region more = region_on(s->link, s->region.mem + PAGE + 1, SIZE - 2 * PAGE,
				       ALL_ACCESS | ODP);

	if (!more.mr || ibv_dereg_mr(more.mr))
		die("cannot register");
}

static void prefetch(struct storm *s)
{
	static unsigned int turn;

	free_pages(s);
	advise_range(s->link, turn % 3, turn % 2, &s->region, s->region.mem, SIZE);
	turn++;
}

FIXTURE(storm)
{
	struct link link;
	struct storm storm;
	struct region other;
	char *seen;
};

FIXTURE_VARIANT(storm)
{
	void (*change)(struct storm *s);
	/* The device may be refused meanwhile. */
	bool refuses;
	/* The contents may be thrown away: zeroes are right, too. */
	bool forgets;
	bool on_file;
	/* If not the usual one. */
	__u8 timeout;
	const char *needs;
};

FIXTURE_VARIANT_ADD(storm, quiet)
{
	.change = no_change,
};

FIXTURE_VARIANT_ADD(storm, mprotect)
{
	.change = set_read_only,
	.refuses = true,
};

FIXTURE_VARIANT_ADD(storm, munmap)
{
	.change = unmap_and_map,
	.refuses = true,
	.on_file = true,
};

FIXTURE_VARIANT_ADD(storm, mmap_anew)
{
	.change = map_anew,
	.forgets = true,
};

FIXTURE_VARIANT_ADD(storm, mremap)
{
	.change = move_away_and_back,
	.refuses = true,
};

FIXTURE_VARIANT_ADD(storm, fork)
{
	.change = copy_on_write,
};

FIXTURE_VARIANT_ADD(storm, dontneed)
{
	.change = free_pages,
	.forgets = true,
};

FIXTURE_VARIANT_ADD(storm, dontneed_file)
{
	.change = free_pages,
	.on_file = true,
};

/* 34 ms: faults take longer at times, and what is on its way is sent again. */
FIXTURE_VARIANT_ADD(storm, impatient)
{
	.change = free_pages,
	.on_file = true,
	.timeout = 13,
};

FIXTURE_VARIANT_ADD(storm, compaction)
{
	.change = compact,
	.needs = COMPACT,
};

FIXTURE_VARIANT_ADD(storm, collapse)
{
	.change = collapse,
	.needs = "/sys/kernel/mm/transparent_hugepage",
};

FIXTURE_VARIANT_ADD(storm, pageout)
{
	.change = page_out,
};

FIXTURE_VARIANT_ADD(storm, registration)
{
	.change = register_more,
};

FIXTURE_VARIANT_ADD(storm, prefetch)
{
	.change = prefetch,
	.forgets = true,
};

FIXTURE_SETUP(storm)
{
	struct storm *s = &self->storm;
	struct sysinfo info;

	if (!link_open(&self->link))
		SKIP(return, NO_DEVICE);
	if (variant->needs && access(variant->needs, F_OK))
		SKIP(return, "there is no %s", variant->needs);
	if (variant->change == page_out && (sysinfo(&info) || !info.totalswap))
		SKIP(return, "there is no swap");
	if (variant->timeout) {
		self->link.timeout = variant->timeout;
		link_renew(&self->link);
	}
	s->link = &self->link;
	s->region = (struct region) {
		.mem = map_kind(variant->change == collapse ? THP : ANON, HUGE_PAGE),
		.size = HUGE_PAGE,
	};
	s->spare.mem = map(SIZE, PROT_NONE, PRIVATE);
	s->fd = tmpfs_file(SIZE);
	if (variant->on_file)
		map_file(s);
	s->region.mr = ibv_reg_mr(self->link.pd, s->region.mem, SIZE, ALL_ACCESS | ODP);
	self->other = region_make(&self->link, ANON, SIZE, ALL_ACCESS);
	ASSERT_NE(NULL, s->region.mr);
	ASSERT_NE(NULL, self->other.mr);
	self->seen = map(SIZE, RW, PRIVATE);
}

FIXTURE_TEARDOWN(storm)
{
	if (self->storm.region.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->storm.region.mr));
	if (self->other.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->other.mr));
	EXPECT_EQ(0, link_close(&self->link));
}

#define STORM FIXTURE_DATA(storm)
#define VARIANT FIXTURE_VARIANT(storm)

struct run {
	struct storm *storm;
	const VARIANT *variant;
};

static unsigned int count(const unsigned int *counter)
{
	return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}

static bool is_over(struct storm *s)
{
	return __atomic_load_n(&s->over, __ATOMIC_SEQ_CST);
}

/* A change that refuses the device waits for its next try, so that not all are refused. */
static void *storm_run(void *arg)
{
	const struct run *run = arg;
	struct storm *s = run->storm;

	while (!is_over(s)) {
		unsigned int begun = count(&s->begun);

		run->variant->change(s);
		__atomic_add_fetch(&s->changes, 1, __ATOMIC_SEQ_CST);
		while (run->variant->refuses && count(&s->begun) == begun && !is_over(s))
			sched_yield();
	}
	return NULL;
}

/* One transfer for each page. */
static enum ibv_wc_status move_pages(struct storm *s, enum way by, const struct region *to,
				     const struct region *from)
{
	size_t page;

	__atomic_add_fetch(&s->begun, 1, __ATOMIC_SEQ_CST);
	for (page = 0; page < NPAGES; page++) {
		size_t offset = page * PAGE + s->offset;

		if (!start_move(s->link, by, to, to->mem + offset, from, from->mem + offset,
				s->length, page == NPAGES - 1))
			return IBV_WC_GENERAL_ERR;
	}
	return end_moves(s->link, by, NPAGES);
}

/* How many bytes are wrong. */
static size_t wrong_bytes(const struct storm *s, const char *mem, __u8 tag, bool zero_is_right)
{
	size_t page, i, wrong = 0;

	for (page = 0; page < NPAGES; page++)
		for (i = 0; i < s->length; i++) {
			size_t place = page * PAGE + s->offset + i;
			__u8 byte = mem[place];

			wrong += byte != byte_of(tag, place) && !(zero_is_right && !byte);
		}
	return wrong;
}

/* The memory as the process sees it, if it is there. */
static bool peek(const struct storm *s, char *to)
{
	static int fd = -1;

	if (fd < 0)
		fd = open("/proc/self/mem", O_RDONLY);
	if (fd < 0)
		die("/proc/self/mem");
	return pread(fd, to, SIZE, (uintptr_t)s->region.mem) == SIZE;
}

/* Of several transfers those before the one that was refused may be flushed. */
static bool is_refusal(enum ibv_wc_status status)
{
	return status == IBV_WC_REM_ACCESS_ERR || status == IBV_WC_LOC_PROT_ERR ||
		status == IBV_WC_WR_FLUSH_ERR;
}

static void storm_test(struct __test_metadata *_metadata, STORM *self,
		       const VARIANT *variant, size_t offset, size_t length)
{
	struct storm *s = &self->storm;
	struct run run = { .storm = s, .variant = variant };
	unsigned int done = 0, tries = 0, refused = 0;
	enum ibv_wc_status status;
	__u8 tag = 0;

	s->offset = offset;
	s->length = length;
	ASSERT_EQ(0, pthread_create(&s->thread, NULL, storm_run, &run));
	while (tries < MOST_TRANSFERS && (done < TRANSFERS || count(&s->changes) < CHANGES)) {
		/* Into the region or out of it, by either side. */
		bool in = done % 2 == 0;
		enum way how = done % 4 == 0 || done % 4 == 3 ? WRITE : READ;

		if (in && (done == 0 || tag != done / 2 % 250 + 1)) {
			tag = done / 2 % 250 + 1;
			fill(self->other.mem, SIZE, tag);
		}
		if (!in)
			memset(self->other.mem, 0xaa, SIZE);
		status = move_pages(s, how, in ? &s->region : &self->other,
				    in ? &self->other : &s->region);
		tries++;
		if (status != IBV_WC_SUCCESS) {
			refused++;
			if (!variant->refuses || !is_refusal(status))
				break;
			link_renew(&self->link);
			continue;
		}
		if (in && peek(s, self->seen) &&
		    wrong_bytes(s, self->seen, tag, variant->forgets))
			break;
		if (!in && wrong_bytes(s, self->other.mem, tag, variant->forgets))
			break;
		done++;
		if (!in)
			fill(self->other.mem, SIZE, tag);
	}
	__atomic_store_n(&s->over, true, __ATOMIC_SEQ_CST);
	ASSERT_EQ(0, pthread_join(s->thread, NULL));
	TH_LOG("%u changes, %u transfers, %u refused", s->changes, done, refused);
	EXPECT_TRUE(status == IBV_WC_SUCCESS || (variant->refuses && is_refusal(status))) {
		TH_LOG("%s", ibv_wc_status_str(status));
	}
	EXPECT_LE(TRANSFERS, done);

	/* When it is quiet again, nothing is left of it. */
	if (status != IBV_WC_SUCCESS)
		link_renew(&self->link);
	fill(self->other.mem, SIZE, 251);
	ASSERT_EQ(IBV_WC_SUCCESS, move_pages(s, WRITE, &s->region, &self->other));
	EXPECT_EQ(0, wrong_bytes(s, s->region.mem, 251, false));
	memset(self->other.mem, 0, SIZE);
	ASSERT_EQ(IBV_WC_SUCCESS, move_pages(s, READ, &self->other, &s->region));
	EXPECT_EQ(0, wrong_bytes(s, self->other.mem, 251, false));
}

/* As much of each page as C's rxe gets right. */
TEST_F_TIMEOUT(storm, one_packet, TIMEOUT)
{
	storm_test(_metadata, self, variant, 0, KIB);
}

TEST_F_TIMEOUT(storm, many_packets, TIMEOUT)
{
	storm_test(_metadata, self, variant, 77, 3 * KIB + 5);
}

TEST_HARNESS_MAIN
