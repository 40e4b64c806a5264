/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fixture of the tests that move memory to a device: one for each kind of
 * device memory and each size of page. Behind kselftest_harness.h.
 */
#ifndef _GPU_MIRROR_MEMORY_H
#define _GPU_MIRROR_MEMORY_H

#include "gpu_mirror.h"

/* Of two leaves of a page table, and no power of two. */
#define SMALL_PAGES	67

FIXTURE(memory)
{
	int fd;
	/* Has OLD_DATA, and as much room for it. */
	void *mem;
	void *data;
	size_t npages;
};

FIXTURE_VARIANT(memory)
{
	int unit;
	bool huge;
};

FIXTURE_VARIANT_ADD(memory, private_small)
{
	.unit = 0,
};

FIXTURE_VARIANT_ADD(memory, private_huge)
{
	.unit = 0,
	.huge = true,
};

FIXTURE_VARIANT_ADD(memory, coherent_small)
{
	.unit = 2,
};

FIXTURE_VARIANT_ADD(memory, coherent_huge)
{
	.unit = 2,
	.huge = true,
};

/* Where there is a driver that counts. */
static inline void expect_used(struct __test_metadata *_metadata, int unit, __u64 pages)
{
	struct counters device = device_counters(unit);

	if (counters_exist(&device))
		EXPECT_EQ(pages, counter(&device, "memory_used"));
}

/* Memory of OLD_DATA, all of one huge page or all of small ones; or NULL. */
static inline void *map_memory(bool huge)
{
	void *mem;

	if (huge) {
		mem = map_thp();
		if (mem)
			fill(mem, HUGE_PAGES, OLD_DATA);
		return mem;
	}
	mem = page_at(map_aligned(HUGE_PAGES + SMALL_PAGES), HUGE_PAGES - SMALL_PAGES / 2);
	/* A kernel may make huge pages of all memory that they fit into. */
	advise(mem, SMALL_PAGES, MADV_NOHUGEPAGE);
	fill(mem, SMALL_PAGES, OLD_DATA);
	return mem;
}

FIXTURE_SETUP(memory)
{
	self->fd = -1;
	if (is_coherent(variant->unit) && !device_exists(variant->unit))
		SKIP(return, NO_COHERENT);
	self->npages = variant->huge ? HUGE_PAGES : SMALL_PAGES;
	self->mem = map_memory(variant->huge);
	if (!self->mem)
		SKIP(return, NO_THP);
	self->data = map(self->npages, RW, PRIVATE);
	self->fd = device_open(variant->unit);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(memory)
{
	if (self->fd < 0)
		return;
	EXPECT_EQ(0, close(self->fd));
	/* Nothing stays on a device that nobody has open. */
	expect_used(_metadata, variant->unit, 0);
}

#endif /* _GPU_MIRROR_MEMORY_H */
