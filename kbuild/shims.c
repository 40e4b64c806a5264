// SPDX-License-Identifier: GPL-2.0

#include <linux/export.h>
#include <linux/highmem.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/oom.h>
#include <linux/pgtable.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "shims.h"

static DEFINE_MUTEX(mnh_per_mm_mutex);

/*
 * The prefix keeps these out of the way of the kernel's own names. They are
 * exported because generic code of the helper crate is compiled into the
 * drivers that use it.
 */

void mnh_interval_set_seq(struct mmu_interval_notifier *interval_sub, unsigned long cur_seq)
{
	mmu_interval_set_seq(interval_sub, cur_seq);
}
EXPORT_SYMBOL_GPL(mnh_interval_set_seq);

bool mnh_interval_read_retry(struct mmu_interval_notifier *interval_sub, unsigned long seq)
{
	return mmu_interval_read_retry(interval_sub, seq);
}
EXPORT_SYMBOL_GPL(mnh_interval_read_retry);

bool mnh_range_blockable(const struct mmu_notifier_range *range)
{
	return mmu_notifier_range_blockable(range);
}
EXPORT_SYMBOL_GPL(mnh_range_blockable);

int mnh_mmap_read_lock_killable(struct mm_struct *mm)
{
	return mmap_read_lock_killable(mm);
}
EXPORT_SYMBOL_GPL(mnh_mmap_read_lock_killable);

int mnh_mmap_write_lock_killable(struct mm_struct *mm)
{
	return mmap_write_lock_killable(mm);
}
EXPORT_SYMBOL_GPL(mnh_mmap_write_lock_killable);

void mnh_mmap_write_unlock(struct mm_struct *mm)
{
	mmap_write_unlock(mm);
}
EXPORT_SYMBOL_GPL(mnh_mmap_write_unlock);

/* The mmap lock must be held for writing. */
int mnh_vma_start_write_range(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	VMA_ITERATOR(vmi, mm, start);
	struct vm_area_struct *vma;

	for_each_vma_range(vmi, vma, end) {
		int ret = vma_start_write_killable(vma);

		if (ret)
			return ret;
	}
	return 0;
}
EXPORT_SYMBOL_GPL(mnh_vma_start_write_range);

int mnh_check_stable_address_space(struct mm_struct *mm)
{
	return check_stable_address_space(mm);
}
EXPORT_SYMBOL_GPL(mnh_check_stable_address_space);

bool mnh_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}
EXPORT_SYMBOL_GPL(mnh_fatal_signal_pending);

void mnh_fs_reclaim_acquire(void)
{
	fs_reclaim_acquire(GFP_KERNEL);
}
EXPORT_SYMBOL_GPL(mnh_fs_reclaim_acquire);

void mnh_fs_reclaim_release(void)
{
	fs_reclaim_release(GFP_KERNEL);
}
EXPORT_SYMBOL_GPL(mnh_fs_reclaim_release);

bool mnh_is_zero_pfn(unsigned long pfn)
{
	return is_zero_pfn(pfn);
}
EXPORT_SYMBOL_GPL(mnh_is_zero_pfn);

void mnh_copy_from_pfn(void *dst, unsigned long pfn)
{
	memcpy_from_page(dst, pfn_to_page(pfn), 0, PAGE_SIZE);
}
EXPORT_SYMBOL_GPL(mnh_copy_from_pfn);

void mnh_copy_to_pfn(unsigned long pfn, const void *src)
{
	memcpy_to_page(pfn_to_page(pfn), 0, src, PAGE_SIZE);
}
EXPORT_SYMBOL_GPL(mnh_copy_to_pfn);

void mnh_set_page_dirty(unsigned long pfn)
{
	set_page_dirty(pfn_to_page(pfn));
}
EXPORT_SYMBOL_GPL(mnh_set_page_dirty);

void mnh_per_mm_lock(void)
{
	mutex_lock(&mnh_per_mm_mutex);
}
EXPORT_SYMBOL_GPL(mnh_per_mm_lock);

void mnh_per_mm_unlock(void)
{
	mutex_unlock(&mnh_per_mm_mutex);
}
EXPORT_SYMBOL_GPL(mnh_per_mm_unlock);

bool mnh_try_module_get(struct module *module)
{
	return try_module_get(module);
}
EXPORT_SYMBOL_GPL(mnh_try_module_get);

void mnh_module_put(struct module *module)
{
	module_put(module);
}
EXPORT_SYMBOL_GPL(mnh_module_put);

/* What a context is in the end: its memory, and the module that it kept. */
struct mnh_remains {
	struct rcu_head rcu;
	struct module *module;
};

static void mnh_free_remains(struct rcu_head *rcu)
{
	struct mnh_remains *remains = container_of(rcu, struct mnh_remains, rcu);
	struct module *module = remains->module;

	kfree(remains);
	module_put(module);
}

/*
 * Frees the kmalloc()ed memory that begins with the subscription, and drops
 * the reference to the module whose free_notifier() calls this. It does so from
 * here and later: that callback runs with bottom halves disabled, which is an
 * RCU read-side critical section, so its code has been left by then.
 */
void mnh_free_context(struct mmu_notifier *subscription, struct module *module)
{
	struct mnh_remains *remains = (void *)subscription;

	static_assert(sizeof(*remains) <= sizeof(*subscription));
	remains->module = module;
	call_rcu(&remains->rcu, mnh_free_remains);
}
EXPORT_SYMBOL_GPL(mnh_free_context);
