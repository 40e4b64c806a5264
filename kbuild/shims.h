/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inline functions and macros of the kernel's headers as functions that Rust
 * can call. Each stands for the C name after the prefix.
 */
#ifndef MMU_NOTIFIER_HELPERS_SHIMS_H
#define MMU_NOTIFIER_HELPERS_SHIMS_H

#include <linux/hmm.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>

/* Where a page lies, as somebody who owns device memory, or none, sees it. */
enum mnh_memory {
	MNH_MEMORY_SYSTEM,
	MNH_MEMORY_ZERO,
	MNH_MEMORY_OWN_PRIVATE,
	MNH_MEMORY_OWN_COHERENT,
	MNH_MEMORY_FOREIGN_COHERENT,
};

void mnh_interval_set_seq(struct mmu_interval_notifier *interval_sub, unsigned long cur_seq);
bool mnh_interval_read_retry(struct mmu_interval_notifier *interval_sub, unsigned long seq);
bool mnh_range_blockable(const struct mmu_notifier_range *range);
int mnh_mmap_read_lock_killable(struct mm_struct *mm);
int mnh_mmap_write_lock_killable(struct mm_struct *mm);
void mnh_mmap_write_unlock(struct mm_struct *mm);
int mnh_vma_start_write_range(struct mm_struct *mm, unsigned long start, unsigned long end);
bool mnh_has_no_secret(struct mm_struct *mm, unsigned long start, unsigned long end);
bool mnh_find_secret(struct mm_struct *mm, unsigned long *start, unsigned long *end);
bool mnh_fault_in_nowait(struct mm_struct *mm, unsigned long address, bool write);
int mnh_check_stable_address_space(struct mm_struct *mm);
bool mnh_fatal_signal_pending(void);
void mnh_fs_reclaim_acquire(void);
void mnh_fs_reclaim_release(void);
void mnh_copy_from_pfn(void *dst, unsigned long pfn, unsigned long pages);
void mnh_copy_to_pfn(unsigned long pfn, const void *src, unsigned long pages);
bool mnh_copy_from_pfn_to_user(void __user *dst, unsigned long pfn, unsigned long pages);
bool mnh_copy_to_pfn_from_user(unsigned long pfn, const void __user *src, unsigned long pages);
void mnh_copy_pfns(unsigned long dst, unsigned long src, unsigned long pages);
void mnh_clear_pfns(unsigned long dst, unsigned long pages);
enum mnh_memory mnh_pfn_memory(unsigned long pfn, const void *asking);
void mnh_set_page_dirty(unsigned long pfn);
void mnh_per_mm_lock(void);
void mnh_per_mm_unlock(void);
bool mnh_try_module_get(struct module *module);
void mnh_module_put(struct module *module);
bool mnh_memory_is_free(u64 start, unsigned long size);
struct resource *mnh_request_free_mem_region(unsigned long size, const char *name);
void mnh_release_mem_region(const struct resource *region);
void mnh_zone_device_folio_init(unsigned long pfn, struct dev_pagemap *pgmap, unsigned int order);
struct dev_pagemap *mnh_folio_pgmap(const struct folio *folio);
unsigned long mnh_folio_pfn(const struct folio *folio);
unsigned int mnh_folio_order(const struct folio *folio);
struct folio *mnh_page_folio(struct page *page);
unsigned long mnh_alloc_pages(unsigned int order);
void mnh_free_pages(unsigned long pfn, unsigned int order);
unsigned long mnh_folio_alloc_locked(unsigned int order);
unsigned long mnh_vma_alloc_folio_locked(unsigned int order, struct vm_area_struct *vma,
					 unsigned long addr);
bool mnh_pfn_may_migrate(unsigned long pfn);
void mnh_folio_unlock_put(unsigned long pfn);
long mnh_make_device_exclusive(struct mm_struct *mm, unsigned long addr, void *owner,
			       unsigned long *first_pfn);
void mnh_free_context(struct mmu_notifier *subscription, struct module *module);

#endif /* MMU_NOTIFIER_HELPERS_SHIMS_H */
