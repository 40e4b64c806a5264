/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inline functions and macros of the kernel's headers as functions that Rust
 * can call. Each stands for the C name after the prefix.
 */
#ifndef MMU_NOTIFIER_HELPERS_SHIMS_H
#define MMU_NOTIFIER_HELPERS_SHIMS_H

#include <linux/hmm.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>

void mnh_interval_set_seq(struct mmu_interval_notifier *interval_sub, unsigned long cur_seq);
bool mnh_interval_read_retry(struct mmu_interval_notifier *interval_sub, unsigned long seq);
bool mnh_range_blockable(const struct mmu_notifier_range *range);
int mnh_mmap_read_lock_killable(struct mm_struct *mm);
int mnh_mmap_write_lock_killable(struct mm_struct *mm);
void mnh_mmap_write_unlock(struct mm_struct *mm);
int mnh_vma_start_write_range(struct mm_struct *mm, unsigned long start, unsigned long end);
int mnh_check_stable_address_space(struct mm_struct *mm);
bool mnh_fatal_signal_pending(void);
void mnh_fs_reclaim_acquire(void);
void mnh_fs_reclaim_release(void);
bool mnh_is_zero_pfn(unsigned long pfn);
void mnh_copy_from_pfn(void *dst, unsigned long pfn);
void mnh_copy_to_pfn(unsigned long pfn, const void *src);
void mnh_set_page_dirty(unsigned long pfn);
void mnh_per_mm_lock(void);
void mnh_per_mm_unlock(void);
bool mnh_try_module_get(struct module *module);
void mnh_module_put(struct module *module);
void mnh_free_context(struct mmu_notifier *subscription, struct module *module);

#endif /* MMU_NOTIFIER_HELPERS_SHIMS_H */
