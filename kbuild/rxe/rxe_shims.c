// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * Inline functions and macros that the on-demand paging of rdma_rxe in Rust calls.
 */

#include <linux/hmm.h>
#include <linux/libnvdimm.h>

#include "rxe.h"
#include "rxe_shims.h"

void rxe_rs_read_page(unsigned long hmm_pfn, size_t offset, void *to, size_t len)
{
	memcpy_from_page(to, hmm_pfn_to_page(hmm_pfn), offset, len);
}

/* The core marks what may have been written to dirty when its mapping ends. */
void rxe_rs_write_page(unsigned long hmm_pfn, size_t offset, const void *from, size_t len)
{
	memcpy_to_page(hmm_pfn_to_page(hmm_pfn), offset, from, len);
}

void rxe_rs_flush_page(unsigned long hmm_pfn, size_t offset, size_t len)
{
	void *va = kmap_local_page(hmm_pfn_to_page(hmm_pfn));

	arch_wb_cache_pmem(va + offset, len);
	kunmap_local(va);
}

u64 *rxe_rs_word_lock(unsigned long hmm_pfn, size_t offset)
	__acquires(&atomic_ops_lock)
{
	void *va = kmap_local_page(hmm_pfn_to_page(hmm_pfn));

	spin_lock_bh(&atomic_ops_lock);
	return va + offset;
}

void rxe_rs_word_unlock(u64 *word)
	__releases(&atomic_ops_lock)
{
	spin_unlock_bh(&atomic_ops_lock);
	kunmap_local(word);
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
