// SPDX-License-Identifier: GPL-2.0
/*
 * The GPU mirror as one process sees it: what the device refuses, what it
 * copies, and what it says of the page tables.
 *
 * The commands are those of the kernel's test_hmm driver. Where that driver
 * warns or wraps around on a hostile range, these tests ask for an error.
 */
#include "kselftest_harness.h"
#include "gpu_mirror.h"

FIXTURE(mirror)
{
	int fd;
};

FIXTURE_VARIANT(mirror)
{
	int unit;
};

FIXTURE_VARIANT_ADD(mirror, dmirror0)
{
	.unit = 0,
};

FIXTURE_VARIANT_ADD(mirror, dmirror1)
{
	.unit = 1,
};

FIXTURE_SETUP(mirror)
{
	self->fd = device_open(variant->unit);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(mirror)
{
	EXPECT_EQ(0, close(self->fd));
}

static const unsigned long device_memory_commands[] = {
	HMM_DMIRROR_MIGRATE_TO_DEV,
	HMM_DMIRROR_MIGRATE_TO_SYS,
	HMM_DMIRROR_EXCLUSIVE,
	HMM_DMIRROR_CHECK_EXCLUSIVE,
};

static const unsigned long other_commands[] = {
	HMM_DMIRROR_SNAPSHOT,
	HMM_DMIRROR_RELEASE,
	HMM_DMIRROR_FLAGS,
};

/* Addresses at which no process has memory that a device could reach. */
static void *const nowhere[] = {
	(void *)0x0,
	(void *)0x00007ffffffff000,	/* behind the last page */
	(void *)0x0000800000000000,	/* not canonical */
	(void *)0x7fff800000000000,
	(void *)0xffff800000000000,	/* the kernel's */
	(void *)0xffffffff81000000,
	(void *)0xffffffffff600000,	/* vsyscall */
	(void *)0xffffffffffffd000,	/* two pages more do not overflow */
};

/* The address of @npages pages where nothing is mapped. */
static void *hole(size_t npages)
{
	void *mem = map(npages, PROT_NONE, PRIVATE);

	unmap(mem, npages);
	return mem;
}

TEST_F(mirror, refuses_bad_command_pointer)
{
	const struct hmm_dmirror_cmd good = {
		.addr = (uintptr_t)map(1, RW, PRIVATE),
		.ptr = (uintptr_t)map(1, RW, PRIVATE),
		.npages = 1,
	};
	struct hmm_dmirror_cmd *read_only = map(1, RW, PRIVATE);
	char *last = map(2, RW, PRIVATE);
	size_t i;

	unmap(page_at(last, 1), 1);
	last = page_at(last, 1) - sizeof(good) / 2;
	for (i = 0; i < ARRAY_SIZE(transfers); i++) {
		EXPECT_EQ(-1, ioctl(self->fd, transfers[i], NULL));
		EXPECT_EQ(EFAULT, errno);
		EXPECT_EQ(-1, ioctl(self->fd, transfers[i], nowhere[3]));
		EXPECT_EQ(EFAULT, errno);
		EXPECT_EQ(-1, ioctl(self->fd, transfers[i], last));
		EXPECT_EQ(EFAULT, errno);
	}

	/* The command can be read and its answer cannot be stored. */
	*read_only = good;
	protect(read_only, 1, PROT_READ);
	EXPECT_EQ(-1, ioctl(self->fd, HMM_DMIRROR_READ, read_only));
	EXPECT_EQ(EFAULT, errno);
}

static void expect_invalid(struct __test_metadata *_metadata, int fd, unsigned long request)
{
	void *mem = map(1, RW, PRIVATE);
	void *data = map(1, RW, PRIVATE);
	const struct {
		void *addr;
		__u64 npages;
	} bad[] = {
		{ mem + 1, 1 },
		{ mem + page_size() - 1, 1 },
		{ mem, 0 },
		{ (void *)-page_size(), 1 },
		{ (void *)-page_size(), 2 },
		{ (void *)(-2 * page_size()), 3 },
		{ mem, -(uintptr_t)mem / page_size() },
		{ mem, 1ULL << 52 },
		{ mem, (1ULL << 52) + 1 },
		{ mem, (1ULL << 63) + 1 },
		{ mem, -1ULL },
	};
	struct hmm_dmirror_cmd cmd;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		int ret = device_command(fd, request, bad[i].addr, data, bad[i].npages, &cmd);

		EXPECT_EQ(-EINVAL, ret) {
			TH_LOG("command %#lx at %p, %#llx pages", request, bad[i].addr,
			       bad[i].npages);
		}
	}
}

TEST_F(mirror, refuses_bad_range)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(transfers); i++)
		expect_invalid(_metadata, self->fd, transfers[i]);
	for (i = 0; i < ARRAY_SIZE(device_memory_commands); i++)
		expect_invalid(_metadata, self->fd, device_memory_commands[i]);
	for (i = 0; i < ARRAY_SIZE(other_commands); i++)
		expect_invalid(_metadata, self->fd, other_commands[i]);
}

TEST_F(mirror, refuses_unknown_command)
{
	const unsigned long unknown[] = {
		_IOWR('H', 0x0a, struct hmm_dmirror_cmd),
		_IOWR('H', 0xff, struct hmm_dmirror_cmd),
		_IOWR('h', 0x00, struct hmm_dmirror_cmd),
		_IOW('H', 0x00, struct hmm_dmirror_cmd),
		_IOWR('H', 0x00, __u64),
		_IO('H', 0x00),
		0,
		0xffffffff,
	};
	void *mem = map(1, RW, PRIVATE);
	void *data = map(1, RW, PRIVATE);
	struct hmm_dmirror_cmd cmd;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(unknown); i++) {
		int ret = device_command(self->fd, unknown[i], mem, data, 1, &cmd);

		EXPECT_EQ(-EINVAL, ret) {
			TH_LOG("command %#lx", unknown[i]);
		}
	}
}

TEST_F(mirror, accepts_release_and_flags)
{
	void *mem = map(1, RW, PRIVATE);
	struct hmm_dmirror_cmd cmd;

	EXPECT_EQ(0, device_command(self->fd, HMM_DMIRROR_FLAGS, mem, NULL,
				    HMM_DMIRROR_FLAG_FAIL_ALLOC, &cmd));
	EXPECT_EQ(0, cmd.cpages);
	EXPECT_EQ(0, cmd.faults);
	EXPECT_EQ(0, device_command(self->fd, HMM_DMIRROR_RELEASE, mem, NULL, 1, &cmd));
	EXPECT_EQ(0, cmd.cpages);
	EXPECT_EQ(0, cmd.faults);
}

static void expect_fault(struct __test_metadata *_metadata, int fd, void *addr, void *ptr)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(transfers); i++) {
		int ret = device_do(fd, transfers[i], addr, ptr, 2);

		EXPECT_EQ(-EFAULT, ret) {
			TH_LOG("command %#lx at %p, data at %p", transfers[i], addr, ptr);
		}
	}
}

TEST_F(mirror, refuses_addresses_without_memory)
{
	void *data = map(2, RW, PRIVATE);
	size_t i;

	fill(data, 2, OLD_DATA);
	expect_fault(_metadata, self->fd, hole(2), data);
	for (i = 0; i < ARRAY_SIZE(nowhere); i++)
		expect_fault(_metadata, self->fd, nowhere[i], data);
	EXPECT_TRUE(holds(data, 0, 2, OLD_DATA));
}

/*
 * A transfer that ends in an error may have done whole pages before the one
 * that stopped it, and nothing from there on.
 */
TEST_F(mirror, stops_at_a_hole)
{
	const size_t stop[] = { 1, 33, MANY_PAGES - 1 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(stop); i++) {
		void *mem = map(MANY_PAGES, RW, PRIVATE);
		void *data = map(MANY_PAGES, RW, PRIVATE);

		fill(mem, MANY_PAGES, OLD_DATA);
		fill(data, MANY_PAGES, NEW_DATA);
		unmap(page_at(mem, stop[i]), 1);
		EXPECT_EQ(-EFAULT, device_write(self->fd, mem, data, MANY_PAGES));
		EXPECT_TRUE(holds_either(mem, 0, stop[i], OLD_DATA, NEW_DATA));
		EXPECT_TRUE(holds(mem, stop[i] + 1, MANY_PAGES, OLD_DATA));
		EXPECT_TRUE(holds(data, 0, MANY_PAGES, NEW_DATA));

		fill(mem, stop[i], OTHER_DATA);
		EXPECT_EQ(-EFAULT, device_read(self->fd, mem, data, MANY_PAGES));
		EXPECT_TRUE(holds_either(data, 0, stop[i], OTHER_DATA, NEW_DATA));
		EXPECT_TRUE(holds(data, stop[i], MANY_PAGES, NEW_DATA));
	}
}

TEST_F(mirror, stops_at_the_end_of_a_file)
{
	void *mem = map_file(4, RW, MAP_SHARED, tmpfs_file(2));
	void *data = map(4, RW, PRIVATE);

	EXPECT_EQ(-EFAULT, device_read(self->fd, mem, data, 4));
	EXPECT_EQ(-EFAULT, device_write(self->fd, page_at(mem, 2), data, 1));
	EXPECT_EQ(0, device_read(self->fd, mem, data, 2));
}

TEST_F(mirror, refuses_inaccessible_memory)
{
	void *mem = map(2, RW, PRIVATE);
	void *data = map(2, RW, PRIVATE);

	fill(mem, 2, OLD_DATA);
	fill(data, 2, NEW_DATA);
	protect(mem, 2, PROT_NONE);
	expect_fault(_metadata, self->fd, mem, data);
	protect(mem, 2, PROT_READ);
	EXPECT_TRUE(holds(mem, 0, 2, OLD_DATA));
	EXPECT_TRUE(holds(data, 0, 2, NEW_DATA));
}

TEST_F(mirror, refuses_to_write_read_only_memory)
{
	void *data = map(2, RW, PRIVATE);
	int file = tmpfs_file(2);
	char path[32];
	void *mem[3];
	size_t i;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	mem[0] = map(2, RW, PRIVATE);
	mem[1] = map(2, RW, SHARED);
	mem[2] = map_file(2, RW, MAP_SHARED, file);
	for (i = 0; i < ARRAY_SIZE(mem); i++)
		fill(mem[i], 2, OLD_DATA);
	protect(mem[0], 2, PROT_READ);
	protect(mem[1], 2, PROT_READ);
	mem[2] = map_file(2, PROT_READ, MAP_SHARED, open(path, O_RDONLY));

	for (i = 0; i < ARRAY_SIZE(mem); i++) {
		fill(data, 2, NEW_DATA);
		EXPECT_EQ(-EPERM, device_write(self->fd, mem[i], data, 2));
		EXPECT_EQ(0, device_read(self->fd, mem[i], data, 2));
		EXPECT_TRUE(holds(data, 0, 2, OLD_DATA));
		EXPECT_EQ(-EPERM, device_write(self->fd, mem[i], data, 2));
		EXPECT_TRUE(holds(mem[i], 0, 2, OLD_DATA));
	}
}

TEST_F(mirror, refuses_bad_data_pointer)
{
	void *mem = map(2, RW, PRIVATE);
	void *data = map(2, PROT_NONE, PRIVATE);
	unsigned char prot[2];
	size_t i;

	fill(mem, 2, OLD_DATA);
	expect_fault(_metadata, self->fd, mem, data);
	for (i = 0; i < ARRAY_SIZE(nowhere); i++) {
		expect_fault(_metadata, self->fd, mem, nowhere[i]);
		EXPECT_EQ(-EFAULT, device_snapshot(self->fd, mem, nowhere[i], 2));
	}

	protect(data, 2, PROT_READ);
	EXPECT_EQ(-EFAULT, device_read(self->fd, mem, data, 2));
	EXPECT_TRUE(is_zero(data, 2));
	EXPECT_TRUE(holds(mem, 0, 2, OLD_DATA));
	EXPECT_EQ(0, device_snapshot(self->fd, mem, prot, 2));
}

TEST_F(mirror, stops_where_the_data_ends)
{
	const size_t stop[] = { 1, MANY_PAGES - 1 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(stop); i++) {
		void *mem = map(MANY_PAGES, RW, PRIVATE);
		void *data = map(MANY_PAGES, RW, PRIVATE);

		fill(mem, MANY_PAGES, OLD_DATA);
		fill(data, MANY_PAGES, NEW_DATA);
		unmap(page_at(data, stop[i]), MANY_PAGES - stop[i]);
		EXPECT_EQ(-EFAULT, device_write(self->fd, mem, data, MANY_PAGES));
		EXPECT_TRUE(holds_either(mem, 0, stop[i], OLD_DATA, NEW_DATA));
		EXPECT_TRUE(holds(mem, stop[i], MANY_PAGES, OLD_DATA));

		fill(mem, MANY_PAGES, OLD_DATA);
		EXPECT_EQ(-EFAULT, device_read(self->fd, mem, data, MANY_PAGES));
		EXPECT_TRUE(holds_either(data, 0, stop[i], OLD_DATA, NEW_DATA));
		EXPECT_TRUE(holds(mem, 0, MANY_PAGES, OLD_DATA));
	}
}

/* No size that the caller names may cost memory or time before it is reached. */
TEST_F(mirror, survives_enormous_counts)
{
	const __u64 enormous[] = { 1ULL << 28, 1ULL << 36, 1ULL << 40, 1ULL << 51 };
	void *mem = map(16, RW, PRIVATE);
	void *data = map(64, RW, PRIVATE);
	size_t i, j;

	unmap(page_at(mem, 8), 8);
	for (i = 0; i < ARRAY_SIZE(enormous); i++) {
		for (j = 0; j < ARRAY_SIZE(transfers); j++) {
			int ret;

			fill(mem, 8, OLD_DATA);
			fill(data, 64, NEW_DATA);
			ret = device_do(self->fd, transfers[j], mem, data, enormous[i]);
			EXPECT_EQ(-EFAULT, ret) {
				TH_LOG("command %#lx of %#llx pages", transfers[j], enormous[i]);
			}
			EXPECT_TRUE(holds_either(mem, 0, 8, OLD_DATA, NEW_DATA));
			EXPECT_TRUE(holds_either(data, 0, 8, OLD_DATA, NEW_DATA));
			EXPECT_TRUE(holds(data, 8, 64, NEW_DATA));
		}
	}
}

/* A terabyte that is mapped, so that only the data's end stops the transfer. */
TEST_F(mirror, survives_enormous_mappings)
{
	const size_t enormous = 1ULL << 28;
	void *mem = map(enormous, PROT_READ, PRIVATE | MAP_NORESERVE);
	void *data = map(16, RW, PRIVATE);
	int ret;

	unmap(page_at(data, 8), 8);
	fill(data, 8, NEW_DATA);
	EXPECT_EQ(-EFAULT, device_read(self->fd, mem, data, enormous));
	EXPECT_EQ(-EFAULT, device_read_unlocked(self->fd, mem, data, enormous));
	EXPECT_EQ(-EFAULT, device_snapshot(self->fd, mem, data, enormous));
	fill(data, 8, NEW_DATA);
	ret = device_write(self->fd, mem, data, enormous);
	EXPECT_TRUE(ret == -EPERM || ret == -EFAULT) {
		TH_LOG("it is %d", ret);
	}
	EXPECT_TRUE(is_zero(mem, 8));
}

/* Reads and writes all of @mem, whose pages have no contents yet. */
static void transfer(struct __test_metadata *_metadata, int fd, void *mem, size_t npages)
{
	void *data = map(npages, RW, PRIVATE);
	struct hmm_dmirror_cmd cmd;

	fill(mem, npages, OLD_DATA);
	ASSERT_EQ(0, device_command(fd, HMM_DMIRROR_READ, mem, data, npages, &cmd));
	ASSERT_EQ(npages, cmd.cpages);
	ASSERT_LE(1, cmd.faults);
	ASSERT_TRUE(holds(data, 0, npages, OLD_DATA));

	/* The CPU's writes reach the device's next read, whatever it has cached. */
	fill(mem, npages, OTHER_DATA);
	ASSERT_EQ(0, device_read_unlocked(fd, mem, data, npages));
	ASSERT_TRUE(holds(data, 0, npages, OTHER_DATA));

	fill(data, npages, NEW_DATA);
	ASSERT_EQ(0, device_write(fd, mem, data, npages));
	ASSERT_TRUE(holds(mem, 0, npages, NEW_DATA));
	ASSERT_TRUE(holds(data, 0, npages, NEW_DATA));
	unmap(data, npages);
}

TEST_F(mirror, transfers_any_count)
{
	const size_t counts[] = { 1, 2, 3, 31, 32, 33, 63, 64, 65, 511, 513, MANY_PAGES };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(counts); i++)
		transfer(_metadata, self->fd, map(counts[i], RW, PRIVATE), counts[i]);
}

TEST_F(mirror, transfers_shared_memory)
{
	transfer(_metadata, self->fd, map(65, RW, SHARED), 65);
}

static bool file_holds(int file, size_t npages, __u64 tag)
{
	return holds(map_file(npages, PROT_READ, MAP_SHARED, file), 0, npages, tag);
}

TEST_F(mirror, transfers_files)
{
	int file = tmpfs_file(65);
	void *data = map(65, RW, PRIVATE);
	ssize_t size = 65 * page_size();

	transfer(_metadata, self->fd, map_file(65, RW, MAP_SHARED, file), 65);
	EXPECT_TRUE(file_holds(file, 65, NEW_DATA));

	/* A private mapping is read through to the file and keeps what is written. */
	transfer(_metadata, self->fd, map_file(65, RW, MAP_PRIVATE, file), 65);
	fill(data, 65, OTHER_DATA);
	ASSERT_EQ(size, pwrite(file, data, size, 0));
	transfer(_metadata, self->fd, map_file(65, RW, MAP_PRIVATE, file), 65);
	EXPECT_TRUE(file_holds(file, 65, OTHER_DATA));
}

TEST_F(mirror, transfers_fresh_memory)
{
	void *mem = map(MANY_PAGES, RW, PRIVATE);
	void *data = map(MANY_PAGES, RW, PRIVATE);
	struct hmm_dmirror_cmd cmd;

	/* One episode of faults, however many pages it takes. */
	fill(data, MANY_PAGES, NEW_DATA);
	ASSERT_EQ(0, device_command(self->fd, HMM_DMIRROR_WRITE, mem, data, MANY_PAGES, &cmd));
	EXPECT_EQ(MANY_PAGES, cmd.cpages);
	EXPECT_EQ(1, cmd.faults);
	EXPECT_TRUE(holds(mem, 0, MANY_PAGES, NEW_DATA));
}

TEST_F(mirror, remembers_what_it_faulted)
{
	void *mem = map(16, RW, PRIVATE);
	void *data = map(16, RW, PRIVATE | MAP_POPULATE);
	struct hmm_dmirror_cmd cmd;
	int tries = 0;

	/* Reclaim or migration may take a page away between two reads; not always. */
	fill(mem, 16, OLD_DATA);
	do {
		ASSERT_EQ(0, device_command(self->fd, HMM_DMIRROR_READ, mem, data, 16, &cmd));
		ASSERT_GT(10, tries++);
	} while (cmd.faults);
	EXPECT_TRUE(holds(data, 0, 16, OLD_DATA));
}

TEST_F(mirror, transfers_huge_page)
{
	const size_t npages = HUGE_PAGES;
	void *mem = map_thp();
	void *data;

	if (!mem)
		SKIP(return, NO_THP);
	transfer(_metadata, self->fd, mem, npages);

	/* Taking pieces out of it leaves the others as they were. */
	data = map(npages, RW, PRIVATE);
	protect(page_at(mem, 7), 1, PROT_READ);
	unmap(page_at(mem, 400), 1);
	EXPECT_EQ(0, device_read(self->fd, mem, data, 400));
	EXPECT_TRUE(holds(data, 0, 400, NEW_DATA));
	EXPECT_EQ(-EFAULT, device_read(self->fd, mem, data, npages));
	EXPECT_EQ(-EPERM, device_write(self->fd, page_at(mem, 7), data, 1));
	fill(data, 400, OTHER_DATA);
	EXPECT_EQ(0, device_write(self->fd, mem, data, 7));
	EXPECT_TRUE(holds(mem, 0, 7, OTHER_DATA));
	EXPECT_TRUE(holds(mem, 7, 400, NEW_DATA));
}

TEST_F(mirror, transfers_hugetlb)
{
	size_t size = 2 << 20;
	void *mem = mmap(NULL, size, RW, PRIVATE | MAP_HUGETLB, -1, 0);

	if (mem == MAP_FAILED)
		SKIP(return, "no huge page reserved in vm.nr_hugepages (%s)", strerror(errno));
	transfer(_metadata, self->fd, mem, size / page_size());
}

TEST_F(mirror, keeps_zero_page_zero)
{
	void *mem = map(2, RW, PRIVATE);
	void *other = map(2, RW, PRIVATE);
	void *data = map(2, RW, PRIVATE);

	fill(data, 2, OLD_DATA);
	ASSERT_TRUE(is_zero(mem, 2) && is_zero(other, 2));
	ASSERT_EQ(0, device_read(self->fd, mem, data, 2));
	EXPECT_TRUE(is_zero(data, 2));

	fill(mem, 1, OLD_DATA);
	ASSERT_EQ(0, device_read(self->fd, mem, data, 2));
	EXPECT_TRUE(holds(data, 0, 1, OLD_DATA) && is_zero(page_at(data, 1), 1));

	fill(data, 2, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, mem, data, 2));
	EXPECT_TRUE(holds(mem, 0, 2, NEW_DATA));
	EXPECT_TRUE(is_zero(other, 2));
	EXPECT_TRUE(is_zero(map(2, PROT_READ, PRIVATE), 2));
}

TEST_F(mirror, takes_unaligned_data)
{
	size_t odd = 2 * page_size() - 3;
	char *data = map(5, RW, PRIVATE);
	void *mem = map(3, RW, PRIVATE);

	fill(mem, 3, OLD_DATA);
	ASSERT_EQ(0, device_read(self->fd, mem, data + odd, 3));
	EXPECT_EQ(0, memcmp(mem, data + odd, 3 * page_size()));
	EXPECT_EQ(0, data[odd - 1]);
	EXPECT_EQ(0, data[odd + 3 * page_size()]);

	memset(mem, 0, 3 * page_size());
	ASSERT_EQ(0, device_write(self->fd, mem, data + odd, 3));
	EXPECT_TRUE(holds(mem, 0, 3, OLD_DATA));
}

/* The data's own pages are mirrored too: copying to them invalidates them. */
TEST_F(mirror, copies_memory_onto_itself)
{
	void *mem = map(MANY_PAGES, RW, PRIVATE);
	void *half = page_at(mem, MANY_PAGES / 2);

	ASSERT_TRUE(is_zero(mem, MANY_PAGES));
	ASSERT_EQ(0, device_read(self->fd, mem, mem, MANY_PAGES));
	EXPECT_TRUE(is_zero(mem, MANY_PAGES));
	fill(mem, MANY_PAGES, OLD_DATA);
	ASSERT_EQ(0, device_read(self->fd, mem, mem, MANY_PAGES));
	ASSERT_EQ(0, device_write(self->fd, mem, mem, MANY_PAGES));
	EXPECT_TRUE(holds(mem, 0, MANY_PAGES, OLD_DATA));

	ASSERT_EQ(0, device_read(self->fd, mem, half, MANY_PAGES / 2));
	EXPECT_TRUE(holds(half, 0, MANY_PAGES / 2, OLD_DATA));
	fill(half, MANY_PAGES / 2, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, mem, half, MANY_PAGES / 2));
	EXPECT_TRUE(holds(mem, 0, MANY_PAGES / 2, NEW_DATA));
}

TEST_F(mirror, sees_new_mapping)
{
	void *mem = map(65, RW, PRIVATE);
	void *data = map(65, RW, PRIVATE);

	fill(mem, 65, OLD_DATA);
	ASSERT_EQ(0, device_read(self->fd, mem, data, 65));
	unmap(mem, 65);
	EXPECT_EQ(-EFAULT, device_read(self->fd, mem, data, 65));
	EXPECT_EQ(-EFAULT, device_write(self->fd, mem, data, 65));
	map_at(mem, 65, RW);
	ASSERT_EQ(0, device_read(self->fd, mem, data, 65));
	EXPECT_TRUE(is_zero(data, 65));
	fill(mem, 65, NEW_DATA);
	ASSERT_EQ(0, device_read(self->fd, mem, data, 65));
	EXPECT_TRUE(holds(data, 0, 65, NEW_DATA));

	/* Over the old one, in one step, and for part of it. */
	map_at(page_at(mem, 32), 1, RW);
	ASSERT_EQ(0, device_read(self->fd, mem, data, 65));
	EXPECT_TRUE(holds(data, 0, 32, NEW_DATA) && holds(data, 33, 65, NEW_DATA));
	EXPECT_TRUE(is_zero(page_at(data, 32), 1));
}

TEST_F(mirror, obeys_protection)
{
	void *mem = map(33, RW, PRIVATE);
	void *data = map(33, RW, PRIVATE);

	fill(data, 33, OLD_DATA);
	ASSERT_EQ(0, device_write(self->fd, mem, data, 33));

	protect(page_at(mem, 32), 1, PROT_READ);
	fill(data, 33, NEW_DATA);
	EXPECT_EQ(-EPERM, device_write(self->fd, page_at(mem, 32), data, 1));
	EXPECT_EQ(-EPERM, device_write(self->fd, mem, data, 33));
	EXPECT_TRUE(page_holds(mem, 32, OLD_DATA));
	EXPECT_EQ(0, device_read(self->fd, mem, data, 33));
	EXPECT_TRUE(page_holds(data, 32, OLD_DATA));

	protect(mem, 33, PROT_NONE);
	EXPECT_EQ(-EFAULT, device_read(self->fd, mem, data, 33));
	protect(mem, 33, RW);
	fill(data, 33, OTHER_DATA);
	EXPECT_EQ(0, device_write(self->fd, mem, data, 33));
	EXPECT_TRUE(holds(mem, 0, 33, OTHER_DATA));
}

TEST_F(mirror, sees_freed_memory)
{
	int file = tmpfs_file(33);
	void *shared = map_file(33, RW, MAP_SHARED, file);
	void *mem = map(33, RW, PRIVATE);
	void *data = map(33, RW, PRIVATE);

	fill(mem, 33, OLD_DATA);
	ASSERT_EQ(0, device_read(self->fd, mem, data, 33));
	advise(page_at(mem, 1), 32, MADV_DONTNEED);
	ASSERT_EQ(0, device_read(self->fd, mem, data, 33));
	EXPECT_TRUE(page_holds(data, 0, OLD_DATA) && is_zero(page_at(data, 1), 32));

	fill(shared, 33, OLD_DATA);
	ASSERT_EQ(0, device_read(self->fd, shared, data, 33));
	advise(page_at(shared, 1), 31, MADV_REMOVE);
	ASSERT_EQ(0, device_read(self->fd, shared, data, 33));
	EXPECT_TRUE(page_holds(data, 0, OLD_DATA) && page_holds(data, 32, OLD_DATA));
	EXPECT_TRUE(is_zero(page_at(data, 1), 31));

	ASSERT_EQ(0, ftruncate(file, page_size()));
	EXPECT_EQ(-EFAULT, device_read(self->fd, shared, data, 33));
	EXPECT_EQ(-EFAULT, device_write(self->fd, page_at(shared, 32), data, 1));
	EXPECT_EQ(0, device_read(self->fd, shared, data, 1));
}

TEST_F(mirror, follows_moved_memory)
{
	void *mem = map(33, RW, PRIVATE);
	void *there = map(33, RW, PRIVATE);
	void *data = map(33, RW, PRIVATE);

	fill(mem, 33, OLD_DATA);
	fill(there, 33, OTHER_DATA);
	ASSERT_EQ(0, device_read(self->fd, mem, data, 33));
	ASSERT_EQ(0, device_read(self->fd, there, data, 33));
	move(mem, 33, there);
	EXPECT_EQ(-EFAULT, device_read(self->fd, mem, data, 33));
	ASSERT_EQ(0, device_read(self->fd, there, data, 33));
	EXPECT_TRUE(holds(data, 0, 33, OLD_DATA));
	fill(data, 33, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, there, data, 33));
	EXPECT_TRUE(holds(there, 0, 33, NEW_DATA));
}

/* Pages that both processes share until either writes them, or a device does. */
TEST_F(mirror, copies_on_write_after_fork)
{
	struct gate parent_wrote = gate(), child_wrote = gate();
	void *mem = map(66, RW, PRIVATE);
	void *late = page_at(mem, 33);
	void *data = map(33, RW, PRIVATE);
	pid_t pid;

	fill(mem, 33, OLD_DATA);
	fill(late, 33, OLD_DATA);
	fill(data, 33, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, mem, mem, 66));
	pid = start_child();
	if (!pid) {
		int fd = device_open(variant->unit);

		/* The parent's device has written the first half, we write the second. */
		ASSERT_TRUE(gate_wait(&parent_wrote));
		ASSERT_TRUE(holds(mem, 0, 33, OLD_DATA));
		ASSERT_EQ(0, device_read(fd, mem, data, 33));
		ASSERT_TRUE(holds(data, 0, 33, OLD_DATA));
		fill(data, 33, OTHER_DATA);
		ASSERT_EQ(0, device_write(fd, late, data, 33));
		ASSERT_TRUE(holds(late, 0, 33, OTHER_DATA));
		gate_open(&child_wrote);
		_exit(0);
	}
	ASSERT_EQ(0, device_write(self->fd, mem, data, 33));
	EXPECT_TRUE(holds(mem, 0, 33, NEW_DATA));
	gate_open(&parent_wrote);
	ASSERT_TRUE(gate_wait(&child_wrote));
	ASSERT_EQ(0, device_read(self->fd, late, data, 33));
	EXPECT_TRUE(holds(data, 0, 33, OLD_DATA));
	EXPECT_TRUE(holds(late, 0, 33, OLD_DATA));
	EXPECT_EQ(0, wait_child(pid));
}

TEST_F(mirror, maps_device_pages)
{
	void *shared = map_file(4, RW, MAP_SHARED, self->fd);
	void *private = map_file(4, RW, MAP_PRIVATE, self->fd);
	void *data = map(4, RW, PRIVATE);

	ASSERT_TRUE(is_zero(shared, 4) && is_zero(private, 4));
	transfer(_metadata, self->fd, shared, 4);
	transfer(_metadata, self->fd, private, 4);

	/* Each mapping has pages of its own, which end with it. */
	EXPECT_TRUE(is_zero(map_file(4, PROT_READ, MAP_SHARED, self->fd), 4));
	protect(shared, 4, PROT_READ);
	EXPECT_EQ(-EPERM, device_write(self->fd, shared, data, 4));
	unmap(shared, 4);
	EXPECT_EQ(-EFAULT, device_read(self->fd, shared, data, 4));
}

TEST_F(mirror, device_pages_outlive_descriptor)
{
	void *mem = map_file(4, RW, MAP_SHARED, self->fd);

	EXPECT_EQ(0, close(self->fd));
	self->fd = device_open(variant->unit);
	ASSERT_LE(0, self->fd);
	transfer(_metadata, self->fd, mem, 4);
}

TEST_F(mirror, snapshot_tells_protection)
{
	char *mem = map(8, RW, PRIVATE);
	unsigned char prot[8];
	int i;

	/* A page each: none, hole, inaccessible, zero, read-only, writable. */
	ASSERT_TRUE(is_zero(page_at(mem, 3), 1));
	for (i = 4; i < 8; i++)
		*(char *)page_at(mem, i) = 1;
	unmap(page_at(mem, 1), 1);
	protect(page_at(mem, 2), 1, PROT_NONE);
	protect(page_at(mem, 4), 1, PROT_READ);
	/* Looking changes nothing, so the second look sees the same. */
	for (i = 0; i < 2; i++) {
		memset(prot, 0xaa, sizeof(prot));
		ASSERT_EQ(0, device_snapshot(self->fd, mem, prot, 6));
		EXPECT_EQ(HMM_DMIRROR_PROT_NONE, prot[0]);
		EXPECT_EQ(HMM_DMIRROR_PROT_ERROR, prot[1]);
		EXPECT_EQ(HMM_DMIRROR_PROT_ERROR, prot[2]);
		EXPECT_EQ(HMM_DMIRROR_PROT_ZERO | HMM_DMIRROR_PROT_READ, prot[3]);
		EXPECT_EQ(HMM_DMIRROR_PROT_READ, prot[4]);
		EXPECT_EQ(HMM_DMIRROR_PROT_WRITE, prot[5]);
		EXPECT_EQ(0xaa, prot[6]);
	}

	/* Faults of the device are seen like those of the CPU. */
	ASSERT_EQ(0, device_write(self->fd, mem, page_at(mem, 7), 1));
	ASSERT_EQ(0, device_snapshot(self->fd, mem, prot, 1));
	EXPECT_EQ(HMM_DMIRROR_PROT_WRITE, prot[0]);
}

TEST_F(mirror, snapshot_tells_huge_page)
{
	const size_t npages = HUGE_PAGES;
	void *mem = map_thp();
	unsigned char *prot;
	size_t i;

	if (!mem)
		SKIP(return, NO_THP);
	prot = map(1, RW, PRIVATE);
	ASSERT_EQ(0, device_snapshot(self->fd, mem, prot, npages));
	for (i = 0; i < npages && prot[i] == (HMM_DMIRROR_PROT_WRITE | HMM_DMIRROR_PROT_PMD); i++)
		;
	EXPECT_EQ(npages, i);

	protect(mem, npages, PROT_READ);
	ASSERT_EQ(0, device_snapshot(self->fd, mem, prot, npages));
	for (i = 0; i < npages && prot[i] == (HMM_DMIRROR_PROT_READ | HMM_DMIRROR_PROT_PMD); i++)
		;
	EXPECT_EQ(npages, i);

	unmap(page_at(mem, 1), 1);
	ASSERT_EQ(0, device_snapshot(self->fd, mem, prot, 3));
	EXPECT_EQ(HMM_DMIRROR_PROT_READ, prot[0]);
	EXPECT_EQ(HMM_DMIRROR_PROT_ERROR, prot[1]);
	EXPECT_EQ(HMM_DMIRROR_PROT_READ, prot[2]);
}

TEST_F(mirror, snapshot_of_nowhere)
{
	unsigned char prot[2];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(nowhere); i++) {
		memset(prot, 0xaa, sizeof(prot));
		ASSERT_EQ(0, device_snapshot(self->fd, nowhere[i], prot, 1)) {
			TH_LOG("at %p", nowhere[i]);
		}
		EXPECT_EQ(HMM_DMIRROR_PROT_ERROR, prot[0]);
		EXPECT_EQ(0xaa, prot[1]);
	}
}

TEST_HARNESS_MAIN
