// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that moves to the device and back: by command, by faults of the CPU
 * and of another device, in part, while it is mapped elsewhere, and when there
 * is no memory to move it to. Whatever happens, no byte of it may change.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/uio.h>

#include "kselftest_harness.h"
#include "gpu_mirror_memory.h"

/* What is around a page in private memory comes back with it, so many pages aligned. */
#define COMES_BACK	16

/* How many pages the device has left when the CPU has touched page 3 of @mem. */
static size_t left_on_device(const struct _fixture_variant_memory *variant, void *mem,
			     size_t npages)
{
	size_t before = (uintptr_t)page_at(mem, 3) / page_size() % COMES_BACK;

	if (is_coherent(variant->unit))
		return npages;
	if (variant->huge)
		return 0;
	return npages - COMES_BACK + (before > 3 ? before - 3 : 0);
}

TEST_F(memory, moves_there_and_back)
{
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));
	expect_used(_metadata, variant->unit, self->npages);

	/* What is there already counts as moved. */
	memset(self->data, 0, self->npages * page_size());
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	expect_used(_metadata, variant->unit, self->npages);

	EXPECT_EQ(self->npages, to_system(self->fd, self->mem, self->npages));
	EXPECT_EQ(0, pages_on_device(self->fd, self->mem, self->npages));
	expect_used(_metadata, variant->unit, 0);
	EXPECT_EQ(0, to_system(self->fd, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

TEST_F(memory, moves_huge_page_as_one)
{
	const int expected = HMM_DMIRROR_PROT_WRITE | HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL |
			     HMM_DMIRROR_PROT_PMD;
	unsigned char prot[HUGE_PAGES];
	size_t i;

	if (!variant->huge || is_coherent(variant->unit))
		SKIP(return, "only private memory is handed out in huge pages");
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, HUGE_PAGES));
	ASSERT_EQ(0, device_snapshot(self->fd, self->mem, prot, HUGE_PAGES));
	for (i = 0; i < HUGE_PAGES && prot[i] == expected; i++)
		;
	EXPECT_EQ(HUGE_PAGES, i);

	/* It comes back as one, too. */
	ASSERT_EQ(HUGE_PAGES, to_system(self->fd, self->mem, HUGE_PAGES));
	ASSERT_EQ(0, device_snapshot(self->fd, self->mem, prot, 1));
	EXPECT_EQ(HMM_DMIRROR_PROT_WRITE | HMM_DMIRROR_PROT_PMD, prot[0]);
}

TEST_F(memory, comes_back_when_read)
{
	size_t left = left_on_device(variant, self->mem, self->npages);

	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(page_holds(self->mem, 3, OLD_DATA));
	EXPECT_EQ(left, pages_on_device(self->fd, self->mem, self->npages));
	expect_used(_metadata, variant->unit, left);
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
	left = is_coherent(variant->unit) ? self->npages : 0;
	EXPECT_EQ(left, pages_on_device(self->fd, self->mem, self->npages));
	expect_used(_metadata, variant->unit, left);
}

TEST_F(memory, comes_back_when_written)
{
	void *page = page_at(self->mem, 3);

	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	fill(page, 1, NEW_DATA);
	EXPECT_EQ(left_on_device(variant, self->mem, self->npages),
		  pages_on_device(self->fd, self->mem, self->npages));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, 3, OLD_DATA));
	EXPECT_TRUE(page_holds(page_at(self->data, 3), 0, NEW_DATA));
	EXPECT_TRUE(holds(self->data, 4, self->npages, OLD_DATA));

	/* Some here and some there, and all of it goes. */
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));
	EXPECT_TRUE(page_holds(page_at(self->data, 3), 0, NEW_DATA));
	EXPECT_TRUE(holds(self->data, 4, self->npages, OLD_DATA));
}

TEST_F(memory, moves_in_part)
{
	size_t first = self->npages / 4, end = self->npages / 2, half = (end - first) / 2;

	ASSERT_EQ(0, to_device(self->fd, page_at(self->mem, first), page_at(self->data, first),
			       end - first));
	EXPECT_TRUE(holds(self->data, first, end, OLD_DATA));
	EXPECT_EQ(end - first, pages_on_device(self->fd, self->mem, self->npages));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));

	fill(self->data, self->npages, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(half, to_system(self->fd, page_at(self->mem, first), half));
	EXPECT_EQ(end - first - half, pages_on_device(self->fd, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));

	/* Part of what is there. */
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(end - first, to_system(self->fd, page_at(self->mem, first), end - first));
	EXPECT_EQ(self->npages - (end - first),
		  pages_on_device(self->fd, self->mem, self->npages));
	expect_used(_metadata, variant->unit, self->npages - (end - first));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, NEW_DATA));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
}

TEST_F(memory, is_used_in_place)
{
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	fill(self->data, self->npages, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, self->npages));
	memset(self->data, 0, self->npages * page_size());
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, NEW_DATA));
	EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));

	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
	fill(self->mem, self->npages, OTHER_DATA);
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OTHER_DATA));
}

/* A device page that the device has forgotten is found again where it is. */
static void read_and_write(struct __test_metadata *_metadata, struct _test_data_memory *self)
{
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	ASSERT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));
}

TEST_F(memory, stays_when_others_change)
{
	void *elsewhere = map(4, RW, PRIVATE);

	fill(elsewhere, 4, OTHER_DATA);
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	protect(elsewhere, 4, PROT_READ);
	read_and_write(_metadata, self);
	advise(elsewhere, 4, MADV_DONTNEED);
	read_and_write(_metadata, self);
	unmap(elsewhere, 4);
	read_and_write(_metadata, self);
	ASSERT_EQ(0, close(device_open(variant->unit)));
	read_and_write(_metadata, self);
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

TEST_F(memory, stays_when_it_is_invalidated)
{
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	protect(self->mem, self->npages, RW | PROT_EXEC);
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	protect(page_at(self->mem, 5), 1, RW);
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));

	/* Pages that the device had not used since it took them over. */
	protect(self->mem, self->npages, RW);
	fill(self->data, self->npages, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
}

TEST_F(memory, obeys_protection)
{
	size_t last = self->npages - 1;

	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	fill(self->data, self->npages, NEW_DATA);
	protect(page_at(self->mem, last), 1, PROT_READ);
	EXPECT_EQ(-EPERM, device_write(self->fd, page_at(self->mem, last), self->data, 1));
	EXPECT_EQ(-EPERM, device_write(self->fd, self->mem, self->data, self->npages));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(page_holds(self->data, last, OLD_DATA));

	protect(self->mem, self->npages, PROT_NONE);
	EXPECT_EQ(-EFAULT, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(-EINVAL, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(-EINVAL, to_system(self->fd, self->mem, self->npages));

	/* The pages have been read-only, and may be written now. */
	protect(self->mem, self->npages, RW);
	fill(self->data, self->npages, OTHER_DATA);
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OTHER_DATA));
}

TEST_F(memory, moves_read_only_memory)
{
	protect(self->mem, self->npages, PROT_READ);
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));
	fill(self->data, self->npages, NEW_DATA);
	EXPECT_EQ(-EPERM, device_write(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(self->npages, to_system(self->fd, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

/* Three mappings, each with a protection of its own, and some memory untouched. */
TEST_F(memory, moves_over_several_mappings)
{
	size_t third = self->npages / 3;

	protect(page_at(self->mem, third), third, PROT_READ);
	map_at(page_at(self->mem, 2 * third), 2, RW);
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));
	EXPECT_TRUE(holds(self->data, 0, 2 * third, OLD_DATA));
	EXPECT_TRUE(is_zero(page_at(self->data, 2 * third), 2));
	EXPECT_TRUE(holds(self->data, 2 * third + 2, self->npages, OLD_DATA));
	EXPECT_EQ(self->npages, to_system(self->fd, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, 2 * third, OLD_DATA));
}

/* Both have the pages, on the device, until one of them writes. */
TEST_F(memory, is_copied_after_fork)
{
	struct gate parent_wrote = gate(), child_wrote = gate();
	size_t half = self->npages / 2, rest = self->npages - half;
	void *late = page_at(self->mem, half);
	pid_t pid;

	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	pid = start_child();
	if (!pid) {
		int fd = device_open(variant->unit);

		/* The parent's device has written the first half. */
		ASSERT_TRUE(gate_wait(&parent_wrote));
		ASSERT_EQ(0, device_read(fd, self->mem, self->data, self->npages));
		ASSERT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
		ASSERT_TRUE(holds(self->mem, 0, half, OLD_DATA));
		/* Our device writes most of the second, and the CPU a page of it. */
		fill(self->data, rest, OTHER_DATA);
		ASSERT_EQ(0, device_write(fd, late, self->data, rest - 1));
		fill(page_at(late, rest - 1), 1, OTHER_DATA);
		ASSERT_TRUE(holds(late, 0, rest - 1, OTHER_DATA));
		gate_open(&child_wrote);
		/* While the parent looks, and after it is done. */
		ASSERT_TRUE(gate_wait(&parent_wrote));
		ASSERT_EQ(0, device_read(fd, self->mem, self->data, half));
		ASSERT_TRUE(holds(self->data, 0, half, OLD_DATA));
		_exit(0);
	}
	fill(self->data, half, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, half));
	gate_open(&parent_wrote);
	ASSERT_TRUE(gate_wait(&child_wrote));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, half, NEW_DATA));
	EXPECT_TRUE(holds(self->data, half, self->npages, OLD_DATA));
	EXPECT_TRUE(holds(self->mem, 0, half, NEW_DATA));
	EXPECT_TRUE(holds(self->mem, half, self->npages, OLD_DATA));
	gate_open(&parent_wrote);
	EXPECT_EQ(0, wait_child(pid));
}

/* What two processes share moves for both of them, and is written by one. */
TEST_F(memory, moves_after_fork)
{
	struct gate moved = gate(), written = gate();
	pid_t pid = start_child();

	if (!pid) {
		ASSERT_TRUE(gate_wait(&moved));
		fill(self->mem, 3, OTHER_DATA);
		gate_open(&written);
		ASSERT_TRUE(holds(self->mem, 0, 3, OTHER_DATA));
		ASSERT_TRUE(holds(self->mem, 3, self->npages, OLD_DATA));
		_exit(0);
	}
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	gate_open(&moved);
	ASSERT_TRUE(gate_wait(&written));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	fill(self->data, self->npages, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
}

TEST_F(memory, follows_a_move)
{
	void *there = map_aligned(self->npages);

	fill(there, self->npages, OTHER_DATA);
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	move(self->mem, self->npages, there);
	EXPECT_EQ(-EFAULT, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(self->npages, pages_on_device(self->fd, there, self->npages));
	ASSERT_EQ(0, device_read(self->fd, there, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	fill(self->data, self->npages, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, there, self->data, self->npages));
	EXPECT_TRUE(holds(there, 0, self->npages, NEW_DATA));
}

/* In pieces, to where no huge page fits. */
TEST_F(memory, follows_a_move_of_a_part)
{
	size_t first = self->npages / 4, end = self->npages / 2;
	void *there = page_at(map_aligned(self->npages + 1), 1);

	fill(there, self->npages, OTHER_DATA);
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	move(page_at(self->mem, first), end - first, page_at(there, first));
	EXPECT_EQ(-EFAULT, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(end - first, pages_on_device(self->fd, there, self->npages));
	EXPECT_EQ(first, pages_on_device(self->fd, self->mem, first));
	ASSERT_EQ(0, device_read(self->fd, there, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, first, OTHER_DATA));
	EXPECT_TRUE(holds(self->data, first, end, OLD_DATA));
	EXPECT_TRUE(holds(self->data, end, self->npages, OTHER_DATA));

	fill(self->data, self->npages, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, there, self->data, self->npages));
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, first));
	EXPECT_TRUE(holds(there, 0, self->npages, NEW_DATA));
	EXPECT_TRUE(holds(self->mem, 0, first, NEW_DATA));
	EXPECT_TRUE(holds(self->mem, end, self->npages, OLD_DATA));
}

/* A part goes away while all of it is on the device; what is left is as it was. */
static void lose_a_part(struct __test_metadata *_metadata, struct _test_data_memory *self,
			void (*lose)(void *mem, size_t npages), bool is_fresh)
{
	size_t first = self->npages / 4, end = self->npages / 2, rest = self->npages - end;

	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	lose(page_at(self->mem, first), end - first);
	EXPECT_EQ(first, pages_on_device(self->fd, self->mem, first));
	EXPECT_EQ(rest, pages_on_device(self->fd, page_at(self->mem, end), rest));
	memset(self->data, 0, self->npages * page_size());
	ASSERT_EQ(is_fresh ? 0 : -EFAULT,
		  device_read(self->fd, page_at(self->mem, first), self->data, end - first));
	EXPECT_TRUE(is_zero(self->data, end - first));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, first));
	EXPECT_TRUE(holds(self->data, 0, first, OLD_DATA));
	ASSERT_EQ(0, device_read(self->fd, page_at(self->mem, end), page_at(self->data, end),
				 rest));
	EXPECT_TRUE(holds(self->data, end, self->npages, OLD_DATA));
	EXPECT_TRUE(holds(self->mem, end, self->npages, OLD_DATA));

	fill(self->data, first, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, first));
	EXPECT_TRUE(holds(self->mem, 0, first, NEW_DATA));
	unmap(self->mem, first);
	unmap(page_at(self->mem, end), rest);
	if (is_fresh)
		unmap(page_at(self->mem, first), end - first);
}

TEST_F(memory, loses_a_part_to_munmap)
{
	lose_a_part(_metadata, self, unmap, false);
	expect_used(_metadata, variant->unit, 0);
}

static void drop(void *mem, size_t npages)
{
	advise(mem, npages, MADV_DONTNEED);
}

TEST_F(memory, loses_a_part_to_dontneed)
{
	lose_a_part(_metadata, self, drop, true);
	expect_used(_metadata, variant->unit, 0);
}

static void map_over(void *mem, size_t npages)
{
	map_at(mem, npages, RW);
}

TEST_F(memory, loses_a_part_to_another_mapping)
{
	lose_a_part(_metadata, self, map_over, true);
	expect_used(_metadata, variant->unit, 0);
}

static bool is_old_or_zero(const void *mem, size_t npages)
{
	size_t i;

	for (i = 0; i < npages; i++)
		if (!page_holds(mem, i, OLD_DATA) && !is_zero(page_at(mem, i), 1))
			return false;
	return true;
}

/* Memory that the kernel may drop, before and after it moves, until it is written. */
TEST_F(memory, is_right_after_madv_free)
{
	int i;

	for (i = 0; i < 2; i++) {
		if (i)
			advise(self->mem, self->npages, MADV_FREE);
		ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
		EXPECT_TRUE(is_old_or_zero(self->data, self->npages));
		advise(self->mem, self->npages, MADV_FREE);
		ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
		EXPECT_TRUE(is_old_or_zero(self->data, self->npages));
		EXPECT_TRUE(is_old_or_zero(self->mem, self->npages));

		fill(self->data, self->npages, NEW_DATA);
		ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, self->npages));
		advise(self->mem, self->npages, MADV_PAGEOUT);
		EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
		fill(self->mem, self->npages, OLD_DATA);
	}
}

/* Memory of the device is none that reclaim could have. */
TEST_F(memory, is_not_paged_out)
{
	int ret;

	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	advise(self->mem, self->npages, MADV_COLD);
	advise(self->mem, self->npages, MADV_PAGEOUT);
	EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	ASSERT_EQ(self->npages, to_system(self->fd, self->mem, self->npages));

	/* What is in swap, if there is any, has to come in first. */
	advise(self->mem, self->npages, MADV_PAGEOUT);
	ret = to_device(self->fd, self->mem, self->data, self->npages);
	EXPECT_TRUE(!ret || ret == -ENOENT) {
		TH_LOG("it is %d", ret);
	}
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

TEST_F(memory, moves_locked_memory)
{
	ASSERT_EQ(0, mlock(self->mem, self->npages * page_size()));
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_EQ(0, munlock(page_at(self->mem, 3), 2 * page_size()));
	EXPECT_EQ(self->npages, to_system(self->fd, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

/* A pipe's reference to a page keeps it where it is, and the others can go. */
TEST_F(memory, leaves_pinned_pages)
{
	struct iovec pinned = { page_at(self->mem, 3), page_size() };
	char *piped = map(1, RW, PRIVATE);
	struct gate pipe = gate();
	size_t on_device;

	if (variant->huge)
		SKIP(return, "a pinned huge page stays as a whole");
	ASSERT_EQ(page_size(), vmsplice(pipe.in, &pinned, 1, 0));
	EXPECT_EQ(-ENOENT, to_device(self->fd, self->mem, self->data, self->npages));
	on_device = pages_on_device(self->fd, self->mem, self->npages);
	EXPECT_EQ(self->npages - 1, on_device);
	EXPECT_EQ(0, pages_on_device(self->fd, pinned.iov_base, 1));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));

	ASSERT_EQ(page_size(), read(pipe.out, piped, page_size()));
	EXPECT_EQ(0, memcmp(piped, page_at(self->data, 3), page_size()));
	EXPECT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
}

/* Memory that nobody has touched, or only read, begins as zeroes on the device. */
TEST_F(memory, begins_on_the_device)
{
	int i;

	for (i = 0; i < 2; i++) {
		advise(self->mem, self->npages, MADV_DONTNEED);
		if (i)
			ASSERT_TRUE(is_zero(self->mem, self->npages));
		fill(self->data, self->npages, OTHER_DATA);
		ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
		EXPECT_TRUE(is_zero(self->data, self->npages));
		EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));
		fill(self->data, self->npages, NEW_DATA);
		ASSERT_EQ(0, device_write(self->fd, page_at(self->mem, 1),
					  page_at(self->data, 1), self->npages - 1));
		EXPECT_TRUE(is_zero(self->mem, 1));
		EXPECT_TRUE(holds(self->mem, 1, self->npages, NEW_DATA));
	}
	EXPECT_TRUE(is_zero(map(1, PROT_READ, PRIVATE), 1));
}

/* The device does not take the place of the user space that provides the pages. */
TEST_F(memory, leaves_missing_pages_to_user_space)
{
	struct trap trap;

	advise(self->mem, self->npages, MADV_DONTNEED);
	if (!trap_set(&trap, self->mem, self->npages))
		SKIP(return, NO_USERFAULTFD);
	EXPECT_EQ(-ENOENT, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(0, pages_on_device(self->fd, self->mem, self->npages));
	trap_release(&trap, NEW_DATA);
	EXPECT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, NEW_DATA));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
}

/* Memory that is not anonymous stays where it is. */
static void expect_stays(struct __test_metadata *_metadata, struct _test_data_memory *self,
			 void *mem)
{
	size_t npages = self->npages;

	fill(mem, npages, OLD_DATA);
	EXPECT_EQ(-ENOENT, to_device(self->fd, mem, self->data, npages));
	EXPECT_EQ(0, pages_on_device(self->fd, mem, npages));
	EXPECT_EQ(0, to_system(self->fd, mem, npages));
	ASSERT_EQ(0, device_read(self->fd, mem, self->data, npages));
	EXPECT_TRUE(holds(self->data, 0, npages, OLD_DATA));
	fill(self->data, npages, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, mem, self->data, npages));
	EXPECT_TRUE(holds(mem, 0, npages, NEW_DATA));
}

TEST_F(memory, leaves_shared_memory)
{
	if (variant->huge)
		SKIP(return, "the same as with small pages");
	expect_stays(_metadata, self, map(self->npages, RW, SHARED));
	expect_stays(_metadata, self,
		     map_file(self->npages, RW, MAP_SHARED, tmpfs_file(self->npages)));
}

/* Of a private mapping of a file, what has been written is anonymous. */
TEST_F(memory, moves_copies_of_a_file)
{
	size_t half = self->npages / 2;
	void *file, *mem;
	int fd;

	if (variant->huge)
		SKIP(return, "the same as with small pages");
	fd = tmpfs_file(self->npages);
	file = map_file(self->npages, RW, MAP_SHARED, fd);
	mem = map_file(self->npages, RW, MAP_PRIVATE, fd);
	fill(file, self->npages, OLD_DATA);
	fill(mem, half, NEW_DATA);
	ASSERT_TRUE(holds(mem, half, self->npages, OLD_DATA));
	EXPECT_EQ(-ENOENT, to_device(self->fd, mem, self->data, self->npages));
	EXPECT_EQ(half, pages_on_device(self->fd, mem, self->npages));
	EXPECT_EQ(0, to_device(self->fd, mem, self->data, half));
	EXPECT_TRUE(holds(self->data, 0, half, NEW_DATA));

	/* The device writes its own copies, too, and the file is as it was. */
	fill(self->data, self->npages, OTHER_DATA);
	ASSERT_EQ(0, device_write(self->fd, mem, self->data, self->npages));
	EXPECT_TRUE(holds(mem, 0, self->npages, OTHER_DATA));
	EXPECT_TRUE(holds(file, 0, self->npages, OLD_DATA));
}

static void expect_refused(struct __test_metadata *_metadata, struct _test_data_memory *self,
			   void *mem, size_t npages)
{
	EXPECT_EQ(-EINVAL, to_device(self->fd, mem, self->data, npages));
	EXPECT_EQ(-EINVAL, to_system(self->fd, mem, npages));
}

TEST_F(memory, refuses_special_mappings)
{
	void *mem = map_file(4, RW, MAP_SHARED, self->fd);

	fill(mem, 4, OLD_DATA);
	expect_refused(_metadata, self, mem, 4);
	EXPECT_TRUE(holds(mem, 0, 4, OLD_DATA));
	ASSERT_EQ(0, device_read(self->fd, mem, self->data, 4));
	EXPECT_TRUE(holds(self->data, 0, 4, OLD_DATA));
	unmap(mem, 4);

	mem = mmap(NULL, HUGE_PAGES * page_size(), RW, PRIVATE | MAP_HUGETLB, -1, 0);
	if (mem == MAP_FAILED)
		SKIP(return, "no huge page reserved in vm.nr_hugepages (%s)", strerror(errno));
	fill(mem, HUGE_PAGES, OLD_DATA);
	expect_refused(_metadata, self, mem, HUGE_PAGES);
	expect_refused(_metadata, self, page_at(mem, 7), 3);
	EXPECT_TRUE(holds(mem, 0, HUGE_PAGES, OLD_DATA));
}

/* What lies before the hole may have moved, and is what it was. */
TEST_F(memory, refuses_ranges_with_holes)
{
	const __u64 enormous[] = { 1ULL << 28, 1ULL << 36, 1ULL << 51 };
	size_t last = self->npages - 1, i;

	expect_refused(_metadata, self, map_aligned(1), 2);
	unmap(page_at(self->mem, last), 1);
	expect_refused(_metadata, self, self->mem, self->npages);
	expect_refused(_metadata, self, page_at(self->mem, last), 1);
	for (i = 0; i < ARRAY_SIZE(enormous); i++) {
		expect_refused(_metadata, self, self->mem, enormous[i]);
		EXPECT_EQ(-EFAULT, device_exclusive(self->fd, self->mem, self->data, enormous[i]));
	}
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, last));
	EXPECT_TRUE(holds(self->data, 0, last, OLD_DATA));
	EXPECT_TRUE(holds(self->mem, 0, last, OLD_DATA));
}

/* Ranges that are none are refused, and what is on the device has not changed. */
TEST_F(memory, refuses_what_is_no_range)
{
	const unsigned long requests[] = {
		HMM_DMIRROR_MIGRATE_TO_DEV, HMM_DMIRROR_MIGRATE_TO_SYS,
		HMM_DMIRROR_EXCLUSIVE, HMM_DMIRROR_CHECK_EXCLUSIVE,
	};
	const struct {
		size_t offset;
		__u64 npages;
	} bad[] = {
		{ 1, 1 },
		{ page_size() - 1, 2 },
		{ 0, 0 },
		{ 0, -(uintptr_t)self->mem / page_size() },
		{ 0, 1ULL << 52 },
		{ 0, (1ULL << 52) + 1 },
		{ 0, -1ULL },
	};
	struct hmm_dmirror_cmd cmd;
	size_t i, j;

	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	for (i = 0; i < ARRAY_SIZE(requests); i++) {
		for (j = 0; j < ARRAY_SIZE(bad); j++) {
			int ret = device_command(self->fd, requests[i], self->mem + bad[j].offset,
						 self->data, bad[j].npages, &cmd);

			EXPECT_EQ(-EINVAL, ret) {
				TH_LOG("command %#lx, %#llx pages", requests[i], bad[j].npages);
			}
		}
	}
	EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

/* The data of what was moved has nowhere to go; the move itself harms nothing. */
TEST_F(memory, survives_bad_data_pointers)
{
	size_t stop = self->npages / 2;
	void *end = map(self->npages, RW, PRIVATE);
	void *const bad[] = {
		NULL,
		map(self->npages, PROT_NONE, PRIVATE),
		map(self->npages, PROT_READ, PRIVATE),
		end,
		(void *)0xffff800000000000,
		(void *)-page_size(),
	};
	size_t i;

	unmap(page_at(end, stop), self->npages - stop);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(-EFAULT, to_device(self->fd, self->mem, bad[i], self->npages)) {
			TH_LOG("data at %p", bad[i]);
		}
		ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
		EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
		EXPECT_EQ(-EFAULT, device_exclusive(self->fd, self->mem, bad[i], self->npages));
		EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
	}
	EXPECT_TRUE(is_zero(bad[2], self->npages));
}

/* The answer has nowhere to go, either. */
TEST_F(memory, survives_a_read_only_command)
{
	struct hmm_dmirror_cmd *cmd = map(1, RW, PRIVATE);

	*cmd = (struct hmm_dmirror_cmd) {
		.addr = (uintptr_t)self->mem,
		.ptr = (uintptr_t)self->data,
		.npages = self->npages,
	};
	protect(cmd, 1, PROT_READ);
	EXPECT_EQ(-1, ioctl(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, cmd));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->fd, HMM_DMIRROR_EXCLUSIVE, cmd));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->fd, HMM_DMIRROR_MIGRATE_TO_SYS, cmd));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

/* The data goes where the device looks too, and then to memory of the device. */
TEST_F(memory, gives_data_to_the_device)
{
	int ret;

	ASSERT_EQ(0, device_read(self->fd, self->data, self->data, self->npages));
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));

	/* To store the data in what has just moved brings it back, and what is around. */
	ret = to_device(self->fd, self->data, self->data, self->npages);
	EXPECT_TRUE(!ret || ret == -ENOENT) {
		TH_LOG("it is %d", ret);
	}
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	fill(self->mem, self->npages, NEW_DATA);
	ASSERT_EQ(0, to_device(self->fd, self->data, map(self->npages, RW, PRIVATE),
			       self->npages));
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, NEW_DATA));
	ASSERT_EQ(0, to_device(self->fd, self->data, map(self->npages, RW, PRIVATE),
			       self->npages));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, NEW_DATA));

	/* From there to there, by way of themselves. */
	ret = to_device(self->fd, self->mem, self->mem, self->npages);
	EXPECT_TRUE(!ret || ret == -ENOENT) {
		TH_LOG("it is %d", ret);
	}
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->mem, self->npages));
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
}

/* Data that another thread takes away: half the rounds, while it is mapped again. */
struct vanishing {
	void *data;
	size_t npages;
	__u64 rounds;
	__u64 over;
};

static void *vanish(void *arg)
{
	struct vanishing *v = arg;

	while (!load(&v->over)) {
		unmap(v->data, v->npages);
		map_at(v->data, v->npages, RW);
		store(&v->rounds, v->rounds + 1);
		sched_yield();
	}
	return NULL;
}

TEST_F_TIMEOUT(memory, survives_vanishing_data, 60)
{
	struct vanishing v = {
		.data = page_at(map_aligned(self->npages + 1), 1),
		.npages = self->npages,
	};
	void *spare = map(self->npages, RW, PRIVATE);
	pthread_t thread;
	int i, ret;

	fill(spare, self->npages, OLD_DATA);
	thread = start_thread(vanish, &v);
	for (i = 0; i < 20 || load(&v.rounds) < 20; i++) {
		ret = to_device(self->fd, self->mem, v.data, self->npages);
		ASSERT_TRUE(!ret || ret == -EFAULT) {
			TH_LOG("it is %d", ret);
		}
		ret = device_read(self->fd, self->mem, v.data, self->npages);
		ASSERT_TRUE(!ret || ret == -EFAULT);
		/* The data itself goes to the device, where it is found and where not. */
		ret = to_device(self->fd, v.data, self->data, self->npages);
		ASSERT_TRUE(!ret || ret == -ENOENT || ret == -EINVAL);
		ret = device_exclusive(self->fd, self->mem, v.data, self->npages);
		ASSERT_TRUE(!ret || ret == -EFAULT || ret == -EBUSY);
		ASSERT_EQ(0, memcmp(self->mem, spare, self->npages * page_size()));
	}
	store(&v.over, 1);
	pthread_join(thread, NULL);
	ASSERT_EQ(0, to_device(self->fd, self->mem, v.data, self->npages));
	EXPECT_TRUE(holds(v.data, 0, self->npages, OLD_DATA));
}

/* A move that sleeps on its data holds up nobody who changes the memory. */
TEST_F(memory, changes_while_data_is_waited_for)
{
	struct command c = {
		self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, self->mem, self->data, self->npages,
	};
	struct trap trap;
	int ret;

	if (!trap_set(&trap, self->data, self->npages))
		SKIP(return, NO_USERFAULTFD);
	start_into_trap(&c, &trap);
	fill(self->mem, self->npages, NEW_DATA);
	protect(self->mem, self->npages, PROT_READ);
	unmap(page_at(self->mem, 3), 1);
	trap_release(&trap, OTHER_DATA);
	ret = command_end(&c);
	EXPECT_TRUE(!ret || ret == -ENOENT || ret == -EFAULT) {
		TH_LOG("it is %d", ret);
	}
	EXPECT_TRUE(holds(self->mem, 0, 3, NEW_DATA));
	EXPECT_TRUE(holds(self->mem, 4, self->npages, NEW_DATA));
}

/*
 * No memory for the first page. A huge page goes in small ones then; a small
 * one stays, as does one of a huge page that goes to coherent memory.
 */
TEST_F(memory, stays_when_the_device_has_no_room)
{
	bool in_pieces = variant->huge;
	struct hmm_dmirror_cmd cmd;
	unsigned char prot;

	ASSERT_EQ(0, fail_next_allocation(self->fd));
	ASSERT_EQ(in_pieces ? 0 : -ENOENT,
		  device_command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, self->mem, self->data,
				 self->npages, &cmd));
	EXPECT_EQ(self->npages - !in_pieces,
		  pages_on_device(self->fd, self->mem, self->npages));
	if (in_pieces) {
		ASSERT_EQ(0, device_snapshot(self->fd, self->mem, &prot, 1));
		EXPECT_EQ(0, prot & HMM_DMIRROR_PROT_PMD);
		EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	}
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));

	/* That was once. */
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));
	EXPECT_EQ(self->npages, to_system(self->fd, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

TEST_F(memory, untouched_memory_finds_no_room)
{
	bool in_pieces = variant->huge;

	advise(self->mem, self->npages, MADV_DONTNEED);
	ASSERT_EQ(0, fail_next_allocation(self->fd));
	fill(self->data, self->npages, OTHER_DATA);
	ASSERT_EQ(in_pieces ? 0 : -ENOENT,
		  device_do(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, self->mem, self->data,
			    self->npages));
	EXPECT_EQ(self->npages - !in_pieces,
		  pages_on_device(self->fd, self->mem, self->npages));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(is_zero(self->data, self->npages));
	EXPECT_TRUE(is_zero(self->mem, self->npages));
}

TEST_F(memory, stays_when_the_system_has_no_room)
{
	bool in_pieces = variant->huge && !is_coherent(variant->unit);
	long ret;

	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	ASSERT_EQ(0, fail_next_allocation(self->fd));
	ret = to_system(self->fd, self->mem, self->npages);
	if (is_coherent(variant->unit)) {
		/* The CPU can do with it where it is. */
		EXPECT_EQ(self->npages - 1, ret);
		EXPECT_EQ(1, pages_on_device(self->fd, self->mem, self->npages));
	} else {
		EXPECT_EQ(in_pieces ? (long)self->npages : -ENOMEM, ret);
	}
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));

	/* That was once. */
	EXPECT_LE(0, to_system(self->fd, self->mem, self->npages));
	EXPECT_EQ(0, pages_on_device(self->fd, self->mem, self->npages));
	expect_used(_metadata, variant->unit, 0);
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

/* The same with pages that two processes have, as huge pages both of them. */
TEST_F(memory, shared_memory_finds_no_room)
{
	struct gate moved = gate();
	pid_t pid = start_child();

	if (!pid) {
		ASSERT_TRUE(gate_wait(&moved));
		ASSERT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
		fill(self->mem, self->npages, OTHER_DATA);
		_exit(0);
	}
	ASSERT_EQ(0, fail_next_allocation(self->fd));
	device_do(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, self->mem, self->data, self->npages);
	gate_open(&moved);
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

/* On the way back: asked for by one of the processes, or by the CPU of the other. */
TEST_F(memory, shared_memory_comes_back_without_room)
{
	int asked;

	for (asked = 0; asked < 2; asked++) {
		struct gate failed = gate();
		pid_t pid;

		ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
		pid = start_child();
		if (!pid) {
			ASSERT_TRUE(gate_wait(&failed));
			ASSERT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
			fill(self->mem, self->npages, OTHER_DATA);
			_exit(0);
		}
		ASSERT_EQ(0, fail_next_allocation(self->fd));
		if (asked)
			to_system(self->fd, self->mem, self->npages);
		gate_open(&failed);
		ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
		EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
		EXPECT_EQ(0, wait_child(pid));
		EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
	}
}

/* A process cannot be told that its memory is on the device to stay. */
TEST_F(memory, comes_back_in_any_case)
{
	int i;

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
		ASSERT_EQ(0, fail_next_allocation(self->fd));
		if (i == 1)
			ASSERT_EQ(0, device_release(self->fd));
		if (i == 2) {
			ASSERT_EQ(0, close(self->fd));
			self->fd = device_open(variant->unit);
			ASSERT_LE(0, self->fd);
		}
		if (i)
			EXPECT_EQ(0, pages_on_device(self->fd, self->mem, self->npages));
		EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
	}
}

TEST_F(memory, comes_back_on_release)
{
	size_t half = self->npages / 2;

	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	protect(page_at(self->mem, half), self->npages - half, PROT_NONE);
	ASSERT_EQ(0, device_release(self->fd));
	expect_used(_metadata, variant->unit, 0);
	protect(self->mem, self->npages, RW);
	EXPECT_EQ(0, pages_on_device(self->fd, self->mem, self->npages));
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));

	/* The device is as good as new. */
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(self->npages, pages_on_device(self->fd, self->mem, self->npages));
}

/* Pages of two processes at once, in pieces, some of them shared. */
TEST_F(memory, comes_back_to_every_process)
{
	size_t half = self->npages / 2;
	struct gate moved = gate(), released = gate();
	pid_t pid;

	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	pid = start_child();
	if (!pid) {
		int fd = device_open(variant->unit);
		void *mem = map(3, RW, PRIVATE);

		fill(mem, 3, OTHER_DATA);
		unmap(page_at(self->mem, half), 3);
		ASSERT_EQ(0, to_device(fd, mem, self->data, 3));
		gate_open(&moved);
		ASSERT_TRUE(gate_wait(&released));
		ASSERT_EQ(0, pages_on_device(fd, mem, 3));
		ASSERT_EQ(0, pages_on_device(fd, self->mem, half));
		ASSERT_TRUE(holds(mem, 0, 3, OTHER_DATA));
		ASSERT_TRUE(holds(self->mem, 0, half, OLD_DATA));
		_exit(0);
	}
	ASSERT_TRUE(gate_wait(&moved));
	ASSERT_EQ(0, device_release(self->fd));
	expect_used(_metadata, variant->unit, 0);
	gate_open(&released);
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
	EXPECT_EQ(0, wait_child(pid));
}

/* The last one who closes the device leaves nothing on it. */
TEST_F(memory, stays_for_whoever_has_the_device_open)
{
	int second = device_open(variant->unit);

	ASSERT_LE(0, second);
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(0, close(self->fd));
	self->fd = second;
	EXPECT_EQ(self->npages, pages_on_device(second, self->mem, self->npages));
	ASSERT_EQ(0, device_read(second, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));

	EXPECT_EQ(0, close(second));
	expect_used(_metadata, variant->unit, 0);
	self->fd = device_open(variant->unit);
	ASSERT_LE(0, self->fd);
	EXPECT_EQ(0, pages_on_device(self->fd, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, OLD_DATA));
}

/* From one device to another: each of them sees what the other has written. */
TEST_F(memory, goes_from_device_to_device)
{
	const int unit = variant->unit;
	const int fd[2] = { self->fd, device_open(unit + 1) };
	__u64 tag = OLD_DATA;
	int i;

	ASSERT_LE(0, fd[1]);
	for (i = 0; i < 4; i++) {
		int here = fd[i % 2], there = fd[!(i % 2)];

		ASSERT_EQ(0, to_device(here, self->mem, self->data, self->npages));
		EXPECT_TRUE(holds(self->data, 0, self->npages, tag));
		expect_used(_metadata, unit + i % 2, self->npages);
		expect_used(_metadata, unit + !(i % 2), 0);
		EXPECT_EQ(self->npages, pages_on_device(here, self->mem, self->npages));
		EXPECT_EQ(0, pages_on_device(there, self->mem, self->npages));
		/* Private memory of another device is as if there was nothing. */
		if (is_coherent(unit))
			EXPECT_EQ(self->npages,
				  count_pages(there, self->mem, self->npages,
					      HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE,
					      HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE));

		/* Not from device to device, and a device is no fault of the other's. */
		EXPECT_EQ(-ENOENT, to_device(there, self->mem, self->data, self->npages));
		EXPECT_EQ(0, to_system(there, self->mem, self->npages));
		EXPECT_EQ(self->npages, pages_on_device(here, self->mem, self->npages));

		ASSERT_EQ(0, device_read(there, self->mem, self->data, self->npages));
		EXPECT_TRUE(holds(self->data, 0, self->npages, tag));
		fill(self->data, self->npages, ++tag);
		ASSERT_EQ(0, device_write(there, self->mem, self->data, self->npages));
		ASSERT_EQ(0, device_read(here, self->mem, self->data, self->npages));
		EXPECT_TRUE(holds(self->data, 0, self->npages, tag));
		EXPECT_EQ(is_coherent(unit) ? self->npages : 0,
			  pages_on_device(here, self->mem, self->npages));
		EXPECT_EQ(is_coherent(unit) ? self->npages : 0,
			  to_system(here, self->mem, self->npages));
	}
	EXPECT_TRUE(holds(self->mem, 0, self->npages, tag));
	EXPECT_EQ(0, close(fd[1]));
	expect_used(_metadata, unit + 1, 0);
}

/* Private memory of one device and coherent memory of another, on one process. */
TEST_F(memory, goes_between_kinds_of_memory)
{
	int other = is_coherent(variant->unit) ? 0 : 2;
	int fd;

	if (!device_exists(other))
		SKIP(return, NO_COHERENT);
	fd = device_open(other);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_EQ(-ENOENT, to_device(fd, self->mem, self->data, self->npages));
	ASSERT_EQ(0, device_read(fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	EXPECT_LE(0, to_system(self->fd, self->mem, self->npages));
	ASSERT_EQ(0, to_device(fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	fill(self->data, self->npages, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, self->npages));
	ASSERT_EQ(0, device_read(fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, NEW_DATA));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
	EXPECT_EQ(0, close(fd));
	expect_used(_metadata, other, 0);
}

TEST_F(memory, is_apart_for_two_processes)
{
	struct gate moved = gate(), looked = gate();
	pid_t pid = start_child();

	if (!pid) {
		int fd = device_open(variant->unit);

		fill(self->mem, self->npages, OTHER_DATA);
		ASSERT_EQ(0, to_device(fd, self->mem, self->data, self->npages));
		gate_open(&moved);
		ASSERT_TRUE(gate_wait(&looked));
		ASSERT_EQ(0, device_read(fd, self->mem, self->data, self->npages));
		ASSERT_TRUE(holds(self->data, 0, self->npages, OTHER_DATA));
		/* The end of the process frees what it has there. */
		_exit(0);
	}
	/* By then the child has copies of its own. */
	ASSERT_TRUE(gate_wait(&moved));
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
	expect_used(_metadata, variant->unit, 2 * self->npages);
	fill(self->data, self->npages, NEW_DATA);
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, self->npages));
	gate_open(&looked);
	EXPECT_EQ(0, wait_child(pid));
	/* Pages that were the child's too may have been copied when they were written. */
	expect_used(_metadata, variant->unit,
		    pages_on_device(self->fd, self->mem, self->npages));
	EXPECT_TRUE(holds(self->mem, 0, self->npages, NEW_DATA));
}

TEST_HARNESS_MAIN
