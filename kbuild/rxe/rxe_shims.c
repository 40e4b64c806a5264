// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * Inline functions and macros that the on-demand paging of rdma_rxe in Rust calls.
 */

#include <linux/hmm.h>
#include <linux/libnvdimm.h>

#include "rxe.h"
#include "rxe_shims.h"

/*
 * The pages of an entry are neighbours in the kernel's mapping, since the
 * driver depends on INFINIBAND_VIRT_DMA, and that on there being no highmem.
 */
static void *rxe_rs_address(unsigned long hmm_pfn, size_t offset)
{
	return page_address(hmm_pfn_to_page(hmm_pfn)) + offset;
}

void rxe_rs_read_page(void *to, unsigned long hmm_pfn, size_t len, size_t offset)
{
	memcpy(to, rxe_rs_address(hmm_pfn, offset), len);
}

/*
 * The core marks what may have been written to dirty when its mapping ends. There
 * is at least a byte.
 */
void rxe_rs_write_page(unsigned long hmm_pfn, const void *from, size_t len, size_t offset)
{
	unsigned long i;

	memcpy(rxe_rs_address(hmm_pfn, offset), from, len);
	for (i = offset >> PAGE_SHIFT; i <= (offset + len - 1) >> PAGE_SHIFT; i++)
		flush_dcache_page(hmm_pfn_to_page(hmm_pfn + i));
}

void rxe_rs_flush_page(unsigned long hmm_pfn, size_t offset, size_t len)
{
	arch_wb_cache_pmem(rxe_rs_address(hmm_pfn, offset), len);
}

u64 *rxe_rs_word_lock(unsigned long hmm_pfn, size_t offset)
	__acquires(&atomic_ops_lock)
{
	spin_lock_bh(&atomic_ops_lock);
	return rxe_rs_address(hmm_pfn, offset);
}

void rxe_rs_word_unlock(void)
	__releases(&atomic_ops_lock)
{
	spin_unlock_bh(&atomic_ops_lock);
}

bool rxe_rs_range_blockable(const struct mmu_notifier_range *range)
{
	return mmu_notifier_range_blockable(range);
}

void rxe_rs_interval_set_seq(struct mmu_interval_notifier *mni, unsigned long cur_seq)
{
	mmu_interval_set_seq(mni, cur_seq);
}

void rxe_rs_dbg_mr(struct rxe_mr *mr, const char *what)
{
	rxe_dbg_mr(mr, "%s\n", what);
}
