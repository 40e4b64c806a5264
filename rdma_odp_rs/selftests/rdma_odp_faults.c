// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * What a device finds after the process has changed its memory, what it is
 * refused, regions whose addresses are others than the memory's, regions over
 * the whole address space, and prefetching.
 */
#include "kselftest_harness.h"
#include <sys/mount.h>

#include "rdma_odp.h"

#define TRACEFS		"/sys/kernel/tracing"
/* For drop_caches: no word about it from now on, then objects of the slab. */
#define BE_QUIET	"4"
#define SLAB		"2"

#define TIMEOUT		120

#define OLD		1
#define NEW		2
#define OTHER		3

#define SIZE		(8 * PAGE)
/* What is moved begins and ends inside of a page. */
#define OFFSET		(PAGE + 77)
#define LENGTH		(3 * PAGE + 11)

FIXTURE(changes)
{
	struct link link;
	/* What the process changes, and memory that nobody does. */
	struct region region;
	struct region other;
	/* What is moved. */
	char *there;
	size_t length;
};

FIXTURE_VARIANT(changes)
{
	size_t offset;
	size_t length;
};

/* As much as C's rxe gets right: one packet, at the start of a page. */
FIXTURE_VARIANT_ADD(changes, one_packet)
{
	.offset = 2 * PAGE,
	.length = KIB,
};

FIXTURE_VARIANT_ADD(changes, many_packets)
{
	.offset = OFFSET,
	.length = LENGTH,
};

FIXTURE_SETUP(changes)
{
	if (!link_open(&self->link))
		SKIP(return, NO_DEVICE);
	self->region = region_make(&self->link, ANON, SIZE, ALL_ACCESS | ODP);
	self->other = region_make(&self->link, ANON, SIZE, ALL_ACCESS);
	ASSERT_NE(NULL, self->region.mr);
	ASSERT_NE(NULL, self->other.mr);
	self->there = self->region.mem + variant->offset;
	self->length = variant->length;
}

FIXTURE_TEARDOWN(changes)
{
	if (self->region.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->region.mr));
	if (self->other.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->other.mr));
	EXPECT_EQ(0, link_close(&self->link));
}

#define CHANGES FIXTURE_DATA(changes)

static enum ibv_wc_status device_read(CHANGES *self)
{
	memset(self->other.mem, 0xaa, SIZE);
	return move(&self->link, READ, &self->other, self->other.mem, &self->region, self->there,
		    self->length);
}

static enum ibv_wc_status device_write(CHANGES *self, __u8 tag)
{
	fill(self->other.mem, self->length, tag);
	return move(&self->link, WRITE, &self->region, self->there, &self->other, self->other.mem,
		    self->length);
}

/* The device has pages of the region, and may write them. */
#define DEVICE_HAS_PAGES()	do { \
		ASSERT_EQ(IBV_WC_SUCCESS, device_write(self, OLD)); \
		ASSERT_TRUE(is_data(self->there, self->length, OLD)); \
	} while (0)

/* The device reads and writes what the process does. */
#define DEVICE_WORKS()	do { \
		ASSERT_EQ(IBV_WC_SUCCESS, device_write(self, OTHER)); \
		ASSERT_TRUE(is_data(self->there, self->length, OTHER)); \
		fill(self->there, self->length, NEW); \
		ASSERT_EQ(IBV_WC_SUCCESS, device_read(self)); \
		ASSERT_TRUE(is_data(self->other.mem, self->length, NEW)); \
	} while (0)

/* The device is told so, and touches nothing. */
#define DEVICE_IS_REFUSED(operation)	do { \
		ASSERT_EQ(IBV_WC_REM_ACCESS_ERR, operation); \
		link_renew(&self->link); \
	} while (0)

TEST_F_TIMEOUT(changes, none, TIMEOUT)
{
	DEVICE_HAS_PAGES();
	DEVICE_WORKS();
}

TEST_F_TIMEOUT(changes, dontneed, TIMEOUT)
{
	DEVICE_HAS_PAGES();
	advise(self->region.mem, SIZE, MADV_DONTNEED);
	ASSERT_EQ(IBV_WC_SUCCESS, device_read(self));
	EXPECT_TRUE(is_zero(self->other.mem, self->length));
	advise(self->region.mem, SIZE, MADV_DONTNEED);
	DEVICE_WORKS();
}

/* Of what is moved only the page in the middle is gone. */
TEST_F_TIMEOUT(changes, dontneed_one_page, TIMEOUT)
{
	size_t before = 2 * PAGE - variant->offset;
	size_t gone = self->length - before < PAGE ? self->length - before : PAGE;
	size_t after = self->length - before - gone;

	DEVICE_HAS_PAGES();
	advise(self->region.mem + 2 * PAGE, PAGE, MADV_DONTNEED);
	ASSERT_EQ(IBV_WC_SUCCESS, device_read(self));
	EXPECT_TRUE(is_data(self->other.mem, before, OLD));
	EXPECT_TRUE(is_zero(self->other.mem + before, gone));
	EXPECT_EQ(after, first_wrong(self->other.mem + before + gone, before + gone, after, OLD));
	DEVICE_WORKS();
}

TEST_F_TIMEOUT(changes, munmap, TIMEOUT)
{
	DEVICE_HAS_PAGES();
	unmap(self->region.mem, SIZE);
	DEVICE_IS_REFUSED(device_read(self));
	DEVICE_IS_REFUSED(device_write(self, NEW));
	map_at(self->region.mem, SIZE, RW);
	DEVICE_WORKS();
}

TEST_F_TIMEOUT(changes, mmap_anew, TIMEOUT)
{
	DEVICE_HAS_PAGES();
	map_at(self->region.mem, SIZE, RW);
	fill(self->there, self->length, NEW);
	ASSERT_EQ(IBV_WC_SUCCESS, device_read(self));
	EXPECT_TRUE(is_data(self->other.mem, self->length, NEW));
	DEVICE_WORKS();
}

/* The pages go on to live elsewhere, where the device is to leave them alone. */
TEST_F_TIMEOUT(changes, mremap, TIMEOUT)
{
	char *elsewhere = map(SIZE, PROT_NONE, PRIVATE);
	char *moved = elsewhere + variant->offset;

	DEVICE_HAS_PAGES();
	ASSERT_EQ(elsewhere, mremap(self->region.mem, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
				    elsewhere));
	DEVICE_IS_REFUSED(device_write(self, NEW));
	EXPECT_TRUE(is_data(moved, self->length, OLD));
	map_at(self->region.mem, SIZE, RW);
	DEVICE_WORKS();
	EXPECT_TRUE(is_data(moved, self->length, OLD));
	ASSERT_EQ(self->region.mem, mremap(elsewhere, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
					   self->region.mem));
	ASSERT_EQ(IBV_WC_SUCCESS, device_read(self));
	EXPECT_TRUE(is_data(self->other.mem, self->length, OLD));
	DEVICE_WORKS();
}

TEST_F_TIMEOUT(changes, mprotect_read_only, TIMEOUT)
{
	DEVICE_HAS_PAGES();
	protect(self->region.mem, SIZE, PROT_READ);
	DEVICE_IS_REFUSED(device_write(self, NEW));
	EXPECT_TRUE(is_data(self->there, self->length, OLD));
	ASSERT_EQ(IBV_WC_SUCCESS, device_read(self));
	EXPECT_TRUE(is_data(self->other.mem, self->length, OLD));
	protect(self->region.mem, SIZE, RW);
	DEVICE_WORKS();
}

/* Only a page in the middle is protected; nothing after it may be written either. */
TEST_F_TIMEOUT(changes, mprotect_one_page, TIMEOUT)
{
	size_t before = 2 * PAGE - variant->offset;
	size_t after = self->length - before;

	DEVICE_HAS_PAGES();
	protect(self->region.mem + 2 * PAGE, PAGE, PROT_READ);
	DEVICE_IS_REFUSED(device_write(self, NEW));
	EXPECT_EQ(after, first_wrong(self->region.mem + 2 * PAGE, before, after, OLD));
	protect(self->region.mem, SIZE, RW);
	DEVICE_WORKS();
}

TEST_F_TIMEOUT(changes, mprotect_none, TIMEOUT)
{
	DEVICE_HAS_PAGES();
	protect(self->region.mem, SIZE, PROT_NONE);
	DEVICE_IS_REFUSED(device_read(self));
	EXPECT_EQ((char)0xaa, self->other.mem[0]);
	DEVICE_IS_REFUSED(device_write(self, NEW));
	protect(self->region.mem, SIZE, RW);
	EXPECT_TRUE(is_data(self->there, self->length, OLD));
	DEVICE_WORKS();
}

/* Whose own side is refused is told that it is. */
TEST_F_TIMEOUT(changes, local_side_is_refused, TIMEOUT)
{
	enum ibv_wc_status status;

	DEVICE_HAS_PAGES();
	protect(self->region.mem, SIZE, PROT_NONE);
	/* What is sent is read late: the queue pair may be in error before the request is. */
	status = move(&self->link, WRITE, &self->other, self->other.mem, &self->region,
		      self->there, self->length);
	EXPECT_TRUE(status == IBV_WC_LOC_PROT_ERR || status == IBV_WC_WR_FLUSH_ERR) {
		TH_LOG("%s", ibv_wc_status_str(status));
	}
	link_renew(&self->link);
	protect(self->region.mem, SIZE, PROT_READ);
	EXPECT_EQ(IBV_WC_LOC_PROT_ERR, move(&self->link, READ, &self->region, self->there,
					    &self->other, self->other.mem, self->length));
	link_renew(&self->link);
	protect(self->region.mem, SIZE, RW);
	EXPECT_TRUE(is_data(self->there, self->length, OLD));
	DEVICE_WORKS();
}

/* After fork the parent's pages are the region's, whoever writes first. */
TEST_F_TIMEOUT(changes, fork, TIMEOUT)
{
	int to_child[2], status;
	char byte = 0;
	pid_t child;

	ASSERT_EQ(0, pipe(to_child));
	DEVICE_HAS_PAGES();
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		/* What the device and the parent write is none of the child's. */
		close(to_child[1]);
		if (read(to_child[0], &byte, 1) < 0)
			_exit(2);
		_exit(!is_data(self->there, self->length, OLD));
	}
	ASSERT_EQ(IBV_WC_SUCCESS, device_write(self, NEW));
	EXPECT_TRUE(is_data(self->there, self->length, NEW));
	fill(self->there, self->length, OTHER);
	ASSERT_EQ(IBV_WC_SUCCESS, device_read(self));
	EXPECT_TRUE(is_data(self->other.mem, self->length, OTHER));
	ASSERT_EQ(1, write(to_child[1], &byte, 1));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	DEVICE_WORKS();
}

/* The first to write after fork is the processor: the device must follow to the copy. */
TEST_F_TIMEOUT(changes, copy_on_write, TIMEOUT)
{
	int to_child[2], status;
	char byte = 0;
	pid_t child;

	ASSERT_EQ(0, pipe(to_child));
	DEVICE_HAS_PAGES();
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		close(to_child[1]);
		if (read(to_child[0], &byte, 1) < 0)
			_exit(2);
		_exit(!is_data(self->there, self->length, OLD));
	}
	ASSERT_EQ(IBV_WC_SUCCESS, device_read(self));
	fill(self->there, self->length, NEW);
	ASSERT_EQ(IBV_WC_SUCCESS, device_read(self));
	EXPECT_TRUE(is_data(self->other.mem, self->length, NEW));
	DEVICE_WORKS();
	ASSERT_EQ(1, write(to_child[1], &byte, 1));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
}

/* Nothing is written through a region that was not registered for that. */
TEST_F_TIMEOUT(changes, read_only_region, TIMEOUT)
{
	struct region region;

	fill(self->there, self->length, OLD);
	protect(self->region.mem, SIZE, PROT_READ);
	region = region_on(&self->link, self->region.mem, SIZE, IBV_ACCESS_REMOTE_READ | ODP);
	ASSERT_NE(NULL, region.mr);
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other, self->other.mem, &region,
				       self->there, self->length));
	EXPECT_TRUE(is_data(self->other.mem, self->length, OLD));
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, WRITE, &region, self->there,
					      &self->other, self->other.mem, self->length));
	link_renew(&self->link);
	EXPECT_TRUE(is_data(self->there, self->length, OLD));
	EXPECT_EQ(0, ibv_dereg_mr(region.mr));
	protect(self->region.mem, SIZE, RW);
}

TEST_F_TIMEOUT(changes, out_of_bounds, TIMEOUT)
{
	char *end = self->region.mem + SIZE;

	fill(self->region.mem, SIZE, OLD);
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, WRITE, &self->region, end - 99,
					      &self->other, self->other.mem, 100));
	link_renew(&self->link);
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, READ, &self->other, self->other.mem,
					      &self->region, self->region.mem - 1, 2));
	link_renew(&self->link);
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, READ, &self->other, self->other.mem,
					      &self->region, end, 1));
	link_renew(&self->link);
	EXPECT_TRUE(is_data(self->region.mem, SIZE, OLD));
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other, self->other.mem,
				       &self->region, end - PAGE, KIB));
	EXPECT_EQ(KIB, first_wrong(self->other.mem, SIZE - PAGE, KIB, OLD));
}

/* A region that begins and ends inside of a page has no more than that. */
TEST_F_TIMEOUT(changes, part_of_a_page, TIMEOUT)
{
	struct region part = region_on(&self->link, self->there, 100, ALL_ACCESS | ODP);
	size_t after = SIZE - variant->offset - 100;

	ASSERT_NE(NULL, part.mr);
	fill(self->region.mem, SIZE, OLD);
	fill(self->other.mem, SIZE, NEW);
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &part, self->there, &self->other,
				       self->other.mem, 100));
	EXPECT_TRUE(is_data(self->there, 100, NEW));
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, WRITE, &part, self->there + 1,
					      &self->other, self->other.mem, 100));
	link_renew(&self->link);
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, WRITE, &part, self->there - 1,
					      &self->other, self->other.mem, 100));
	link_renew(&self->link);
	EXPECT_TRUE(is_data(self->region.mem, variant->offset, OLD));
	EXPECT_EQ(after, first_wrong(self->there + 100, SIZE - after, after, OLD));
	EXPECT_EQ(0, ibv_dereg_mr(part.mr));
}

/* Two regions on the same memory, one of them without the right to write. */
TEST_F_TIMEOUT(changes, two_regions, TIMEOUT)
{
	struct region second = region_on(&self->link, self->region.mem + PAGE, SIZE - PAGE,
					 IBV_ACCESS_REMOTE_READ | ODP);

	ASSERT_NE(NULL, second.mr);
	DEVICE_HAS_PAGES();
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other, self->other.mem, &second,
				       self->there, self->length));
	EXPECT_TRUE(is_data(self->other.mem, self->length, OLD));
	advise(self->region.mem, SIZE, MADV_DONTNEED);
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other, self->other.mem, &second,
				       self->there, self->length));
	EXPECT_TRUE(is_zero(self->other.mem, self->length));
	EXPECT_EQ(0, ibv_dereg_mr(second.mr));
	DEVICE_WORKS();
}

FIXTURE(iova)
{
	struct link link;
	struct region region;
	struct region other;
};

FIXTURE_VARIANT(iova)
{
	__u64 iova;
};

FIXTURE_VARIANT_ADD(iova, low)
{
	.iova = 0x10000,
};

FIXTURE_VARIANT_ADD(iova, zero)
{
	.iova = 0,
};

FIXTURE_VARIANT_ADD(iova, high)
{
	.iova = 0xffff888000000000,
};

FIXTURE_SETUP(iova)
{
	if (must_survive())
		SKIP(return, DEADLY);
	if (!link_open(&self->link))
		SKIP(return, NO_DEVICE);
	self->region.size = SIZE;
	self->region.mem = map(SIZE, RW, PRIVATE);
	self->region.mr = ibv_reg_mr_iova(self->link.pd, self->region.mem, SIZE, variant->iova,
					  ALL_ACCESS | ODP);
	ASSERT_NE(NULL, self->region.mr);
	self->region.shift = variant->iova - (uintptr_t)self->region.mem;
	self->other = region_make(&self->link, ANON, SIZE, ALL_ACCESS);
	ASSERT_NE(NULL, self->other.mr);
}

FIXTURE_TEARDOWN(iova)
{
	if (self->region.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->region.mr));
	if (self->other.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->other.mr));
	EXPECT_EQ(0, link_close(&self->link));
}

TEST_F_TIMEOUT(iova, transfers, TIMEOUT)
{
	enum way how;

	for (how = WRITE; how < WAYS; how++) {
		const struct region *to = how == READ ? &self->other : &self->region;
		const struct region *from = how == READ ? &self->region : &self->other;

		fill(from->mem + OFFSET, LENGTH, OLD + how);
		memset(to->mem, 0, SIZE);
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, how, to, to->mem + 5, from,
					       from->mem + OFFSET, LENGTH));
		ASSERT_TRUE(is_data(to->mem + 5, LENGTH, OLD + how)) {
			TH_LOG("%s", way_names[how]);
		}
		ASSERT_TRUE(is_zero(to->mem + 5 + LENGTH, SIZE - 5 - LENGTH));
		advise(self->region.mem, SIZE, MADV_DONTNEED);
	}
}

TEST_F_TIMEOUT(iova, atomics, TIMEOUT)
{
	__u64 *word = (__u64 *)(self->region.mem + 3 * PAGE - 8);
	__u64 *old = (__u64 *)self->other.mem;

	*word = 40;
	ASSERT_EQ(IBV_WC_SUCCESS, atomic(&self->link, IBV_WR_ATOMIC_FETCH_AND_ADD, &self->region,
					 word, 2, 0, &self->other));
	EXPECT_EQ(40, *old);
	EXPECT_EQ(42, *word);
}

TEST_F_TIMEOUT(iova, bounds, TIMEOUT)
{
	fill(self->region.mem, SIZE, OLD);
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, WRITE, &self->region,
					      self->region.mem + SIZE - 99, &self->other,
					      self->other.mem, 100));
	link_renew(&self->link);
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, WRITE, &self->region,
					      self->region.mem - 1, &self->other,
					      self->other.mem, 100));
	link_renew(&self->link);
	/* The address of the memory is none of the device's. */
	self->region.shift = 0;
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, WRITE, &self->region,
					      self->region.mem, &self->other, self->other.mem,
					      100));
	EXPECT_TRUE(is_data(self->region.mem, SIZE, OLD));
}

FIXTURE(implicit)
{
	struct link link;
	struct region all;
	struct region other;
};

FIXTURE_SETUP(implicit)
{
	if (!link_open(&self->link))
		SKIP(return, NO_DEVICE);
	if (!has_odp(self->link.context, IBV_ODP_SUPPORT_IMPLICIT))
		SKIP(return, "the device has no implicit regions");
	self->all = region_on(&self->link, NULL, SIZE_MAX, ALL_ACCESS | ODP);
	self->other = region_make(&self->link, ANON, SIZE, ALL_ACCESS);
	ASSERT_NE(NULL, self->all.mr);
	ASSERT_NE(NULL, self->other.mr);
}

FIXTURE_TEARDOWN(implicit)
{
	if (self->all.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->all.mr));
	if (self->other.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->other.mr));
	EXPECT_EQ(0, link_close(&self->link));
}

/* Memory that was mapped before the region was registered, and after. */
TEST_F_TIMEOUT(implicit, anywhere, TIMEOUT)
{
	enum kind kind;

	for (kind = ANON; kind < KINDS; kind++) {
		char *mem = map_kind(kind, 2 * HUGE_PAGE);
		enum way how;

		if (!mem)
			continue;
		for (how = WRITE; how < WAYS; how++) {
			char *there = mem + HUGE_PAGE - OFFSET;
			const struct region *to = how == READ ? &self->other : &self->all;
			const struct region *from = how == READ ? &self->all : &self->other;
			char *to_addr = how == READ ? self->other.mem : there;
			char *from_addr = how == READ ? there : self->other.mem;

			fill(from_addr, LENGTH, OLD + how);
			ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, how, to, to_addr, from,
						       from_addr, LENGTH));
			ASSERT_TRUE(is_data(to_addr, LENGTH, OLD + how)) {
				TH_LOG("kind %d, %s", kind, way_names[how]);
			}
		}
		unmap(mem, 2 * HUGE_PAGE);
	}
}

/* The stack, the heap and the program's own data are of the address space too. */
TEST_F_TIMEOUT(implicit, all_of_the_process, TIMEOUT)
{
	static char data[100];
	char stack[100], *heap = malloc(100);
	char * const places[] = { data, stack, heap };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(places); i++) {
		fill(self->other.mem, 100, OLD + i);
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &self->all, places[i],
					       &self->other, self->other.mem, 100));
		EXPECT_TRUE(is_data(places[i], 100, OLD + i));
	}
	free(heap);
}

TEST_F_TIMEOUT(implicit, what_is_not_mapped, TIMEOUT)
{
	char *hole = map(SIZE, RW, PRIVATE);

	unmap(hole, SIZE);
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, READ, &self->other, self->other.mem,
					      &self->all, hole, LENGTH));
	link_renew(&self->link);
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, WRITE, &self->all, NULL, &self->other,
					      self->other.mem, 8));
	link_renew(&self->link);
	/* What is the kernel's is not the process's. */
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, move(&self->link, READ, &self->other, self->other.mem,
					      &self->all, (void *)0xffffffff81000000, 8));
	link_renew(&self->link);
	map_at(hole, SIZE, RW);
	fill(hole, SIZE, NEW);
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other, self->other.mem,
				       &self->all, hole, LENGTH));
	EXPECT_TRUE(is_data(self->other.mem, LENGTH, NEW));
}

/* Far apart, mapped and unmapped, again and again: what was made for them is given back. */
TEST_F_TIMEOUT(implicit, come_and_go, TIMEOUT)
{
	const size_t size = 64 * HUGE_PAGE;
	unsigned int turn;
	size_t place;

	for (turn = 0; turn < 8; turn++) {
		char *mem = map(size, RW, PRIVATE | MAP_NORESERVE);

		for (place = 0; place < size; place += 4 * HUGE_PAGE) {
			fill(self->other.mem, LENGTH, turn);
			ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &self->all,
						       mem + place + OFFSET, &self->other,
						       self->other.mem, LENGTH));
			ASSERT_TRUE(is_data(mem + place + OFFSET, LENGTH, turn));
		}
		unmap(mem, size);
	}
}

static bool write_to(const char *path, const char *what)
{
	int fd = open(path, O_WRONLY | O_TRUNC);
	bool done = fd >= 0 && write(fd, what, strlen(what)) == (ssize_t)strlen(what);

	if (fd >= 0)
		close(fd);
	return done;
}

/*
 * Has the kernel shrink what it can. Returns how many parts of implicit regions there were before,
 * by what reclaim reports, or -1 if it cannot be asked.
 */
static long shrink_parts(void)
{
	char line[512], *found;
	long parts = 0;
	FILE *trace;

	if (access(TRACEFS "/trace", F_OK))
		mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	if (!write_to(TRACEFS "/events/vmscan/mm_shrink_slab_start/enable", "1") ||
	    !write_to(TRACEFS "/trace", "") ||
	    !write_to("/proc/sys/vm/drop_caches", BE_QUIET) ||
	    !write_to("/proc/sys/vm/drop_caches", SLAB) ||
	    !write_to(TRACEFS "/events/vmscan/mm_shrink_slab_start/enable", "0"))
		return -1;
	trace = fopen(TRACEFS "/trace", "r");
	if (!trace)
		return -1;
	while (!parts && fgets(line, sizeof(line), trace)) {
		found = strstr(line, "[rdma_rxe]");
		if (found)
			found = strstr(found, "cache items ");
		if (found)
			parts = atol(found + strlen("cache items "));
	}
	fclose(trace);
	return parts;
}

TEST_F_TIMEOUT(implicit, given_back_under_pressure, TIMEOUT)
{
	const size_t parts = 64;
	char *mem = map(parts * HUGE_PAGE, RW, PRIVATE | MAP_NORESERVE);
	size_t i, rounds = 0;
	long left;

	for (i = 0; i < parts; i++) {
		fill(self->other.mem, LENGTH, OLD + i);
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &self->all, mem + i * HUGE_PAGE,
					       &self->other, self->other.mem, LENGTH));
	}
	left = shrink_parts();
	if (left < 0)
		SKIP(return, "reclaim cannot be watched: not configured or not permitted");
	EXPECT_LE(parts, left);
	while (left > 0 && rounds++ < 1000)
		left = shrink_parts();
	EXPECT_EQ(0, left);
	for (i = 0; i < parts; i++) {
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other, self->other.mem,
					       &self->all, mem + i * HUGE_PAGE, LENGTH));
		ASSERT_TRUE(is_data(self->other.mem, LENGTH, OLD + i));
	}
}

TEST_F_TIMEOUT(implicit, given_back_when_unmapped, TIMEOUT)
{
	const size_t parts = 512;
	char *mem = map(parts * HUGE_PAGE, PROT_NONE, PRIVATE | MAP_NORESERVE);
	size_t i;
	long left;

	for (i = 0; i < parts; i++) {
		char *here = mem + i * HUGE_PAGE;

		map_at(here, SIZE, RW);
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &self->all, here, &self->other,
					       self->other.mem, LENGTH));
		unmap(here, SIZE);
	}
	left = shrink_parts();
	if (left < 0)
		SKIP(return, "reclaim cannot be watched: not configured or not permitted");
	/* Some may be about to be. */
	EXPECT_GT(parts / 4, left);
}

TEST_F_TIMEOUT(implicit, atomics, TIMEOUT)
{
	__u64 *words = map(SIZE, RW, PRIVATE);

	ASSERT_EQ(IBV_WC_SUCCESS, atomic(&self->link, IBV_WR_ATOMIC_FETCH_AND_ADD, &self->all,
					 &words[511], 9, 0, &self->other));
	EXPECT_EQ(9, words[511]);
}

FIXTURE(prefetch)
{
	struct link link;
	struct region region;
	struct region read_only;
	struct region pinned;
};

FIXTURE_SETUP(prefetch)
{
	char *mem;

	if (!link_open(&self->link))
		SKIP(return, NO_DEVICE);
	mem = map(SIZE, RW, PRIVATE);
	self->region = region_on(&self->link, mem, SIZE, ALL_ACCESS | ODP);
	self->read_only = region_on(&self->link, mem, SIZE, IBV_ACCESS_REMOTE_READ | ODP);
	self->pinned = region_make(&self->link, ANON, SIZE, ALL_ACCESS);
	ASSERT_NE(NULL, self->region.mr);
	ASSERT_NE(NULL, self->read_only.mr);
	ASSERT_NE(NULL, self->pinned.mr);
}

FIXTURE_TEARDOWN(prefetch)
{
	if (self->region.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->region.mr));
	if (self->read_only.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->read_only.mr));
	if (self->pinned.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->pinned.mr));
	EXPECT_EQ(0, link_close(&self->link));
}

/* Waits until so many pages are there; false if they are not in time. */
static bool wait_present(const struct region *r, size_t count)
{
	double end = now() + PATIENCE;

	while (present(r->mem, r->size) != count) {
		if (now() > end)
			return false;
		sched_yield();
	}
	return true;
}

TEST_F_TIMEOUT(prefetch, read, TIMEOUT)
{
	ASSERT_EQ(0, present(self->region.mem, SIZE));
	ASSERT_EQ(0, advise_range(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH, true,
				  &self->region, self->region.mem + PAGE + 5, 2 * PAGE));
	EXPECT_EQ(3, present(self->region.mem, SIZE));
	EXPECT_TRUE(is_zero(self->region.mem, SIZE));
}

TEST_F_TIMEOUT(prefetch, write, TIMEOUT)
{
	ASSERT_EQ(0, advise_range(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, true,
				  &self->region, self->region.mem, SIZE));
	EXPECT_EQ(SIZE / PAGE, present(self->region.mem, SIZE));
}

TEST_F_TIMEOUT(prefetch, no_fault, TIMEOUT)
{
	ASSERT_EQ(0, advise_range(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT, true,
				  &self->region, self->region.mem, SIZE));
	EXPECT_EQ(0, present(self->region.mem, SIZE));
}

TEST_F_TIMEOUT(prefetch, in_the_background, TIMEOUT)
{
	ASSERT_EQ(0, advise_range(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, false,
				  &self->region, self->region.mem + PAGE - 1, 2 * PAGE));
	EXPECT_TRUE(wait_present(&self->region, 3));
}

TEST_F_TIMEOUT(prefetch, many_pieces, TIMEOUT)
{
	struct ibv_sge pieces[SIZE / PAGE];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(pieces); i++)
		pieces[i] = (struct ibv_sge) {
			.addr = at(&self->region, self->region.mem + i * PAGE + i),
			.length = 1,
			.lkey = self->region.mr->lkey,
		};
	ASSERT_EQ(0, advise_mr(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH, true, pieces,
			       ARRAY_SIZE(pieces)));
	EXPECT_EQ(SIZE / PAGE, present(self->region.mem, SIZE));
}

TEST_F_TIMEOUT(prefetch, then_transfers, TIMEOUT)
{
	int advice;

	for (advice = IBV_ADVISE_MR_ADVICE_PREFETCH;
	     advice <= IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT; advice++) {
		advise(self->region.mem, SIZE, MADV_DONTNEED);
		ASSERT_EQ(0, advise_range(&self->link, advice, true, &self->region,
					  self->region.mem, SIZE));
		fill(self->pinned.mem, LENGTH, OLD + advice);
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &self->region,
					       self->region.mem + OFFSET, &self->pinned,
					       self->pinned.mem, LENGTH));
		ASSERT_TRUE(is_data(self->region.mem + OFFSET, LENGTH, OLD + advice));
	}
}

TEST_F_TIMEOUT(prefetch, refused, TIMEOUT)
{
	struct ibv_sge bad = {
		.addr = at(&self->region, self->region.mem),
		.length = 1,
		.lkey = self->region.mr->lkey ^ 0x5a00,
	};

	EXPECT_GT(0, advise_range(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, true,
				  &self->read_only, self->region.mem, SIZE));
	EXPECT_EQ(-EINVAL, advise_mr(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH, true, &bad, 1));
	EXPECT_EQ(-EINVAL, advise_mr(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH, false, &bad, 1));
	EXPECT_GT(0, advise_range(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH, true,
				  &self->region, self->region.mem + PAGE, SIZE));
	EXPECT_GT(0, advise_range(&self->link, 77, true, &self->region, self->region.mem, SIZE));
	EXPECT_EQ(0, present(self->region.mem, SIZE));
	protect(self->region.mem, SIZE, PROT_NONE);
	EXPECT_EQ(-EFAULT, advise_range(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH, true,
					&self->region, self->region.mem, SIZE));
}

/* To be read, memory need not be the device's to write. */
TEST_F_TIMEOUT(prefetch, read_only_region, TIMEOUT)
{
	ASSERT_EQ(0, advise_range(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH, true,
				  &self->read_only, self->region.mem, SIZE));
	EXPECT_EQ(SIZE / PAGE, present(self->region.mem, SIZE));
}

TEST_F_TIMEOUT(prefetch, pinned_region, TIMEOUT)
{
	if (must_survive())
		SKIP(return, DEADLY);
	EXPECT_GT(0, advise_range(&self->link, IBV_ADVISE_MR_ADVICE_PREFETCH, true,
				  &self->pinned, self->pinned.mem, SIZE));
}

TEST_HARNESS_MAIN
