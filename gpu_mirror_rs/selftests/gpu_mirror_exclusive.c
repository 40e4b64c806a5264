// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that the device has for itself, as it needs for atomic operations:
 * what becomes exclusive, and what ends it. The data stays where it is.
 */
#include "kselftest_harness.h"
#include "gpu_mirror_memory.h"

/* How many pages the device has for itself. */
static size_t count_exclusive(int fd, void *mem, size_t npages)
{
	size_t n = 0, i;

	for (i = 0; i < npages; i++)
		n += check_exclusive(fd, page_at(mem, i), 1) == -EPERM;
	return n;
}

TEST_F(memory, becomes_exclusive)
{
	EXPECT_EQ(0, check_exclusive(self->fd, self->mem, self->npages));
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_EQ(-EPERM, check_exclusive(self->fd, self->mem, self->npages));
	EXPECT_EQ(self->npages, count_exclusive(self->fd, self->mem, self->npages));

	/* Once more, and the device may read what it has. */
	memset(self->data, 0, self->npages * page_size());
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

TEST_F(memory, begins_exclusive)
{
	advise(self->mem, self->npages, MADV_DONTNEED);
	/* The zero page and what nobody has touched become pages of their own. */
	ASSERT_TRUE(is_zero(self->mem, self->npages / 2));
	fill(self->data, self->npages, OTHER_DATA);
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(is_zero(self->data, self->npages));
	fill(self->mem, self->npages, NEW_DATA);
	EXPECT_TRUE(is_zero(map(1, PROT_READ, PRIVATE), 1));
}

static void read_by_cpu(void *mem, size_t npages)
{
	while (npages--)
		__atomic_load_n((char *)page_at(mem, npages), __ATOMIC_SEQ_CST);
}

static void write_by_cpu(void *mem, size_t npages)
{
	fill(mem, npages, NEW_DATA);
}

static void read_by_kernel(void *mem, size_t npages)
{
	void *data = map(npages, RW, PRIVATE);
	ssize_t size = npages * page_size();
	int fd = open("/proc/self/mem", O_RDONLY);

	if (pread(fd, data, size, (uintptr_t)mem) != size || memcmp(data, mem, size))
		die("/proc/self/mem");
	close(fd);
	unmap(data, npages);
}

static void make_read_only(void *mem, size_t npages)
{
	protect(mem, npages, PROT_READ);
}

static void drop(void *mem, size_t npages)
{
	advise(mem, npages, MADV_DONTNEED);
}

static void move_away(void *mem, size_t npages)
{
	move(mem, npages, map(npages, RW, PRIVATE));
}

/* Each ends it for the pages that it is about; to split a mapping may end more. */
TEST_F_TIMEOUT(memory, ends_for_a_part, 60)
{
	static const struct {
		const char *name;
		void (*end)(void *mem, size_t npages);
		bool splits;
	} ways[] = {
		{ "read", read_by_cpu },
		{ "write", write_by_cpu },
		{ "/proc/self/mem", read_by_kernel },
		{ "MADV_DONTNEED", drop },
		{ "mprotect", make_read_only, true },
		{ "munmap", unmap, true },
		{ "mremap", move_away, true },
	};
	size_t first = self->npages / 4, part = self->npages / 8, i;

	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		void *mem = i ? map_memory(variant->huge) : self->mem;

		ASSERT_NE(NULL, mem);
		ASSERT_EQ(0, device_exclusive(self->fd, mem, self->data, self->npages));
		ways[i].end(page_at(mem, first), part);
		EXPECT_EQ(0, check_exclusive(self->fd, page_at(mem, first), part)) {
			TH_LOG("after %s", ways[i].name);
		}
		if (!ways[i].splits) {
			EXPECT_EQ(self->npages - part,
				  count_exclusive(self->fd, mem, self->npages)) {
				TH_LOG("after %s", ways[i].name);
			}
		}
		EXPECT_TRUE(holds(mem, 0, first, OLD_DATA));
		EXPECT_TRUE(holds(mem, first + part, self->npages, OLD_DATA));
		EXPECT_EQ(0, check_exclusive(self->fd, mem, self->npages));
		unmap(mem, self->npages);
	}
}

TEST_F(memory, sees_what_came_after)
{
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	fill(self->mem, self->npages, NEW_DATA);
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, NEW_DATA));
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, NEW_DATA));

	protect(self->mem, self->npages, PROT_READ);
	EXPECT_EQ(-EPERM, device_write(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
}

/* The device may write what it has. */
TEST_F(memory, stays_exclusive_when_the_device_writes)
{
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	fill(self->data, self->npages, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(self->npages, count_exclusive(self->fd, self->mem, self->npages));
	memset(self->data, 0, self->npages * page_size());
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, NEW_DATA));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
	EXPECT_EQ(0, check_exclusive(self->fd, self->mem, self->npages));
}

/* Another device takes it away, to read, to write or to have it itself. */
TEST_F(memory, ends_with_another_device)
{
	int other = device_open(variant->unit + 1);

	ASSERT_LE(0, other);
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(0, check_exclusive(other, self->mem, self->npages));
	ASSERT_EQ(0, device_read(other, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_EQ(0, check_exclusive(self->fd, self->mem, self->npages));

	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	fill(self->data, self->npages, NEW_DATA);
	ASSERT_EQ(0, device_write(other, self->mem, self->data, self->npages));
	EXPECT_EQ(0, check_exclusive(self->fd, self->mem, self->npages));

	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	ASSERT_EQ(0, device_exclusive(other, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, NEW_DATA));
	EXPECT_EQ(0, check_exclusive(self->fd, self->mem, self->npages));
	EXPECT_EQ(self->npages, count_exclusive(other, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
	EXPECT_EQ(0, check_exclusive(other, self->mem, self->npages));
	EXPECT_EQ(0, close(other));
}

TEST_F(memory, ends_with_a_fork)
{
	struct gate wrote = gate();
	pid_t pid;

	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	pid = start_child();
	if (!pid) {
		ASSERT_TRUE(gate_wait(&wrote));
		ASSERT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
		fill(self->mem, self->npages, OTHER_DATA);
		_exit(0);
	}
	EXPECT_EQ(0, check_exclusive(self->fd, self->mem, self->npages));
	/* A page that is shared is copied first. */
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	fill(self->mem, self->npages / 2, NEW_DATA);
	gate_open(&wrote);
	EXPECT_EQ(0, wait_child(pid));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages / 2, NEW_DATA));
	EXPECT_TRUE(holds(self->data, self->npages / 2, self->npages, OLD_DATA));
	EXPECT_TRUE(holds(self->mem, self->npages / 2, self->npages, OLD_DATA));
}

/* Nobody but the CPU is there to give the pages back. */
TEST_F(memory, outlives_the_descriptor)
{
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	ASSERT_EQ(0, close(self->fd));
	self->fd = device_open(variant->unit);
	ASSERT_LE(0, self->fd);
	EXPECT_EQ(0, check_exclusive(self->fd, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages / 2, OLD_DATA));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	/* Some are exclusive when the process ends. */
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
}

TEST_F(memory, is_not_lost_to_reclaim)
{
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	advise(self->mem, self->npages, MADV_PAGEOUT);
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

/* Exclusive memory may or may not move, and memory that has moved may be exclusive. */
TEST_F(memory, goes_with_migration)
{
	int ret;

	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	ret = to_device(self->fd, self->mem, self->data, self->npages);
	EXPECT_TRUE(!ret || ret == -ENOENT) {
		TH_LOG("it is %d", ret);
	}
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));

	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_EQ(self->npages, count_exclusive(self->fd, self->mem, self->npages));
	fill(self->mem, self->npages, NEW_DATA);
	EXPECT_EQ(0, check_exclusive(self->fd, self->mem, self->npages));
	ASSERT_EQ(0, device_release(self->fd));
	expect_used(_metadata, variant->unit, 0);
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, NEW_DATA));

	/* Exclusive on the device, where there is such a thing, and given up there. */
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, self->npages));
	ASSERT_EQ(0, device_release(self->fd));
	expect_used(_metadata, variant->unit, 0);
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
}

static void expect_refused(struct __test_metadata *_metadata, struct _test_data_memory *self,
			   void *mem, size_t npages, int error)
{
	EXPECT_EQ(error, device_exclusive(self->fd, mem, self->data, npages));
	EXPECT_EQ(0, check_exclusive(self->fd, mem, npages));
	EXPECT_TRUE(is_zero(self->data, npages));
}

TEST_F(memory, is_refused_where_it_cannot_be)
{
	void *hugetlb, *mem;

	if (variant->huge)
		SKIP(return, "the same as with small pages");
	mem = map(4, RW, SHARED);
	fill(mem, 4, OLD_DATA);
	expect_refused(_metadata, self, mem, 4, -EOPNOTSUPP);
	expect_refused(_metadata, self, map_file(4, RW, MAP_SHARED, tmpfs_file(4)), 4,
		       -EOPNOTSUPP);
	expect_refused(_metadata, self, map_file(4, RW, MAP_SHARED, self->fd), 4, -EOPNOTSUPP);
	expect_refused(_metadata, self, map_aligned(1) + page_size(), 1, -EFAULT);
	expect_refused(_metadata, self, map(2, PROT_NONE, PRIVATE), 2, -EFAULT);
	expect_refused(_metadata, self, NULL, 2, -EFAULT);
	expect_refused(_metadata, self, (void *)0xffff800000000000, 1, -EFAULT);
	EXPECT_TRUE(holds(mem, 0, 4, OLD_DATA));

	hugetlb = mmap(NULL, HUGE_PAGES * page_size(), RW, PRIVATE | MAP_HUGETLB, -1, 0);
	if (hugetlb == MAP_FAILED)
		SKIP(return, "no huge page reserved in vm.nr_hugepages (%s)", strerror(errno));
	expect_refused(_metadata, self, hugetlb, 3, -EOPNOTSUPP);
}

/* As if the device had asked to write. */
TEST_F(memory, is_refused_for_read_only_memory)
{
	protect(self->mem, self->npages, PROT_READ);
	expect_refused(_metadata, self, self->mem, self->npages, -EPERM);
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

TEST_F(memory, stops_where_it_cannot_be)
{
	size_t last = self->npages - 1;

	unmap(page_at(self->mem, last), 1);
	EXPECT_EQ(-EFAULT, device_exclusive(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, last, OLD_DATA));
	EXPECT_EQ(0, check_exclusive(self->fd, self->mem, self->npages));
	ASSERT_EQ(0, device_exclusive(self->fd, self->mem, self->data, last));
	EXPECT_TRUE(holds(self->data, 0, last, OLD_DATA));
}

/* The copies of a file's pages are the process's own. */
TEST_F(memory, takes_copies_of_a_file)
{
	int fd = tmpfs_file(4);
	void *file = map_file(4, RW, MAP_SHARED, fd);
	void *mem = map_file(4, RW, MAP_PRIVATE, fd);

	if (variant->huge)
		SKIP(return, "the same as with small pages");
	fill(file, 4, OLD_DATA);
	ASSERT_EQ(0, device_exclusive(self->fd, mem, self->data, 4));
	EXPECT_TRUE(holds(self->data, 0, 4, OLD_DATA));
	fill(self->data, 4, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, mem, self->data, 4));
	EXPECT_TRUE(holds(mem, 0, 4, NEW_DATA));
	EXPECT_TRUE(holds(file, 0, 4, OLD_DATA));
}

/* An exclusive page is found by whoever looks for it next, in any thread. */
static void *count_up(void *arg)
{
	struct _test_data_memory *self = arg;
	size_t page;
	int i;

	for (i = 0; i < 300; i++)
		for (page = 0; page < 8; page++)
			__atomic_add_fetch((__u64 *)page_at(self->mem, page), 1,
					   __ATOMIC_SEQ_CST);
	return NULL;
}

TEST_F_TIMEOUT(memory, threads_count_beside_the_device, 60)
{
	pthread_t threads[2];
	size_t page, i;
	int ret, rounds;

	memset(self->mem, 0, 8 * page_size());
	for (i = 0; i < ARRAY_SIZE(threads); i++)
		threads[i] = start_thread(count_up, self);
	for (rounds = 0; rounds < 30; rounds++) {
		/* What was taken back at once has no data to give. */
		ret = device_exclusive(self->fd, self->mem, self->data, 8);
		ASSERT_TRUE(!ret || ret == -ENOENT || ret == -EBUSY) {
			TH_LOG("it is %d", ret);
		}
		for (page = 0; !ret && page < 8; page++)
			ASSERT_GE(600, *(__u64 *)page_at(self->data, page));
	}
	for (i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	for (page = 0; page < 8; page++)
		EXPECT_EQ(600, *(__u64 *)page_at(self->mem, page));
}

TEST_HARNESS_MAIN
