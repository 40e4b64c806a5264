// SPDX-License-Identifier: GPL-2.0

#include <linux/export.h>
#include <linux/highmem.h>
#include <linux/oom.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include "shims.h"

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
