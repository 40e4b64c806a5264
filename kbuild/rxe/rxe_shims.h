/* SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB */
#ifndef RDMA_ODP_RXE_SHIMS_H
#define RDMA_ODP_RXE_SHIMS_H

#include <linux/types.h>

struct mmu_interval_notifier;
struct mmu_notifier_range;
struct rxe_mr;

/*
 * Bytes of the pages of a valid entry, from an offset on; none of them is behind
 * the last page. The arguments are where memcpy() has them.
 */
void rxe_rs_read_page(void *to, unsigned long hmm_pfn, size_t len, size_t offset);
void rxe_rs_write_page(unsigned long hmm_pfn, const void *from, size_t len, size_t offset);
void rxe_rs_flush_page(unsigned long hmm_pfn, size_t offset, size_t len);

/*
 * The word at an aligned offset, while no atomic operation on any region touches it.
 */
u64 *rxe_rs_word_lock(unsigned long hmm_pfn, size_t offset);
void rxe_rs_word_unlock(void);

bool rxe_rs_range_blockable(const struct mmu_notifier_range *range);
void rxe_rs_interval_set_seq(struct mmu_interval_notifier *mni, unsigned long cur_seq);

void rxe_rs_dbg_mr(struct rxe_mr *mr, const char *what);

#endif /* RDMA_ODP_RXE_SHIMS_H */
