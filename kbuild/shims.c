// SPDX-License-Identifier: GPL-2.0

#include <linux/dma-mapping.h>
#include <linux/export.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/hugetlb_inline.h>
#include <linux/ioport.h>
#include <linux/magic.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/oom.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/rcupdate.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

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

/* As vma_is_secretmem(), which modules do not have. */
static bool mnh_is_secret(const struct vm_area_struct *vma)
{
	return vma->vm_file && file_inode(vma->vm_file)->i_sb->s_magic == SECRETMEM_MAGIC;
}

/*
 * Whether the range is known to have no secret memory: one VMA is all of it,
 * which nobody changes just now. Waits for nobody, whoever has the mmap lock.
 */
bool mnh_has_no_secret(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	struct vm_area_struct *vma = lock_vma_under_rcu(mm, start);
	bool open;

	if (!vma)
		return false;
	open = end <= vma->vm_end && !mnh_is_secret(vma);
	vma_end_read(vma);
	return open;
}
EXPORT_SYMBOL_GPL(mnh_has_no_secret);

/*
 * Cuts the range to the first secret memory in it, if there is some. The mmap
 * lock must be held.
 */
bool mnh_find_secret(struct mm_struct *mm, unsigned long *start, unsigned long *end)
{
	VMA_ITERATOR(vmi, mm, *start);
	struct vm_area_struct *vma;

	for_each_vma_range(vmi, vma, *end) {
		if (!mnh_is_secret(vma))
			continue;
		*start = max(*start, vma->vm_start);
		*end = min(*end, vma->vm_end);
		return true;
	}
	return false;
}
EXPORT_SYMBOL_GPL(mnh_find_secret);

/*
 * Whether a fault needs neither a disk nor user space: nothing is swapped out,
 * and the page is anonymous, or of a file in memory and there. What a file
 * system waits for is its own affair. The caller puts the folio, which cannot be
 * reclaimed before.
 */
static bool mnh_is_at_hand(const struct vm_area_struct *vma, unsigned long address,
			   struct folio **folio)
{
	struct address_space *mapping;

	if (get_mm_counter_sum(vma->vm_mm, MM_SWAPENTS))
		return false;
	if (vma_is_anonymous(vma) || is_vm_hugetlb_page(vma))
		return true;
	mapping = vma->vm_file ? vma->vm_file->f_mapping : NULL;
	/* While a hole is punched, faults wait for the end of that. */
	if (!mapping || !shmem_mapping(mapping) || READ_ONCE(mapping->host->i_private))
		return false;
	*folio = filemap_get_folio(mapping, linear_page_index(vma, address));
	if (IS_ERR(*folio))
		*folio = NULL;
	return *folio && folio_test_uptodate(*folio);
}

/*
 * Faults a page in that hmm would fault in. False if it did not; if it did, the
 * page may be there. The mmap lock must be held, for writing even: it is not
 * dropped, so what would have to wait for somebody who may need it is not done.
 */
bool mnh_fault_in_nowait(struct mm_struct *mm, unsigned long address, bool write)
{
	unsigned int flags = FAULT_FLAG_REMOTE | FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_RETRY_NOWAIT;
	vm_flags_t wanted = VM_READ;
	struct vm_area_struct *vma = vma_lookup(mm, address);
	struct folio *folio = NULL;
	bool done = false;

	if (write) {
		flags |= FAULT_FLAG_WRITE;
		wanted |= VM_WRITE;
	}
	if (!vma || (vma->vm_flags & (wanted | VM_IO | VM_PFNMAP)) != wanted)
		return false;
	if (mnh_is_at_hand(vma, address, &folio)) {
		vm_fault_t fault = handle_mm_fault(vma, address, flags, NULL);

		done = !(fault & (VM_FAULT_ERROR | VM_FAULT_RETRY));
	}
	if (folio)
		folio_put(folio);
	return done;
}
EXPORT_SYMBOL_GPL(mnh_fault_in_nowait);

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

/*
 * The copies below take pages that are neighbours in the kernel's mapping of
 * memory, as those of a folio are on every architecture without highmem, which
 * this is for.
 */
static_assert(!IS_ENABLED(CONFIG_HIGHMEM));

/* dma.rs writes it so: bindgen 0.71 evaluates neither the macro nor a constant. */
static_assert(DMA_MAPPING_ERROR == ~(dma_addr_t)0);

static void *mnh_address(unsigned long pfn)
{
	return page_address(pfn_to_page(pfn));
}

void mnh_copy_from_pfn(void *dst, unsigned long pfn, unsigned long pages)
{
	memcpy(dst, mnh_address(pfn), pages << PAGE_SHIFT);
}
EXPORT_SYMBOL_GPL(mnh_copy_from_pfn);

/* What the device writes leaves no trace in page tables that the core would find. */
static void mnh_written(unsigned long pfn, unsigned long pages)
{
	for (; pages--; pfn++) {
		struct page *page = pfn_to_page(pfn);

		flush_dcache_page(page);
		if (!folio_test_dirty(page_folio(page)))
			set_page_dirty(page);
	}
}

void mnh_copy_to_pfn(unsigned long pfn, const void *src, unsigned long pages)
{
	memcpy(mnh_address(pfn), src, pages << PAGE_SHIFT);
	mnh_written(pfn, pages);
}
EXPORT_SYMBOL_GPL(mnh_copy_to_pfn);

/* Tells whether all was copied; without a page fault, so it may not be. */
bool mnh_copy_from_pfn_to_user(void __user *dst, unsigned long pfn, unsigned long pages)
{
	return !copy_to_user_nofault(dst, mnh_address(pfn), pages << PAGE_SHIFT);
}
EXPORT_SYMBOL_GPL(mnh_copy_from_pfn_to_user);

bool mnh_copy_to_pfn_from_user(unsigned long pfn, const void __user *src, unsigned long pages)
{
	bool copied = !copy_from_user_nofault(mnh_address(pfn), src, pages << PAGE_SHIFT);

	mnh_written(pfn, pages);
	return copied;
}
EXPORT_SYMBOL_GPL(mnh_copy_to_pfn_from_user);

void mnh_copy_pfns(unsigned long dst, unsigned long src, unsigned long pages)
{
	unsigned long i;

	for (i = 0; i < pages; i++)
		copy_highpage(pfn_to_page(dst + i), pfn_to_page(src + i));
}
EXPORT_SYMBOL_GPL(mnh_copy_pfns);

void mnh_clear_pfns(unsigned long dst, unsigned long pages)
{
	unsigned long i;

	for (i = 0; i < pages; i++)
		clear_highpage(pfn_to_page(dst + i));
}
EXPORT_SYMBOL_GPL(mnh_clear_pfns);

enum mnh_memory mnh_pfn_memory(unsigned long pfn, const void *asking)
{
	struct page *page = pfn_to_page(pfn);

	if (likely(!is_zone_device_page(page)))
		return is_zero_pfn(pfn) ? MNH_MEMORY_ZERO : MNH_MEMORY_SYSTEM;
	switch (page_pgmap(page)->type) {
	case MEMORY_DEVICE_PRIVATE:
		return MNH_MEMORY_OWN_PRIVATE;
	case MEMORY_DEVICE_COHERENT:
		return page_pgmap(page)->owner == asking ? MNH_MEMORY_OWN_COHERENT :
							   MNH_MEMORY_FOREIGN_COHERENT;
	default:
		return MNH_MEMORY_SYSTEM;
	}
}
EXPORT_SYMBOL_GPL(mnh_pfn_memory);

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

#ifdef CONFIG_DEVICE_PRIVATE

/* Whether memremap_pages() would take the memory without a warning. */
bool mnh_memory_is_free(u64 start, unsigned long size)
{
	u64 addr[] = { start, start + size - 1 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(addr); i++) {
		struct dev_pagemap *pgmap = get_dev_pagemap(PHYS_PFN(addr[i]));

		put_dev_pagemap(pgmap);
		if (pgmap)
			return false;
	}
	return region_intersects(start, size, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) ==
	       REGION_DISJOINT;
}
EXPORT_SYMBOL_GPL(mnh_memory_is_free);

struct resource *mnh_request_free_mem_region(unsigned long size, const char *name)
{
	return request_free_mem_region(&iomem_resource, size, name);
}
EXPORT_SYMBOL_GPL(mnh_request_free_mem_region);

void mnh_release_mem_region(const struct resource *region)
{
	release_mem_region(region->start, resource_size(region));
}
EXPORT_SYMBOL_GPL(mnh_release_mem_region);

/*
 * zone_device_folio_init() of a page that may have been the tail of a larger
 * folio when it was last used, and still says so.
 */
void mnh_zone_device_folio_init(unsigned long pfn, struct dev_pagemap *pgmap, unsigned int order)
{
	struct page *page = pfn_to_page(pfn);

	zone_device_page_init(page, pgmap, order);
	if (order)
		folio_set_large_rmappable(page_folio(page));
}
EXPORT_SYMBOL_GPL(mnh_zone_device_folio_init);

struct dev_pagemap *mnh_folio_pgmap(const struct folio *folio)
{
	return folio->pgmap;
}
EXPORT_SYMBOL_GPL(mnh_folio_pgmap);

unsigned long mnh_folio_pfn(const struct folio *folio)
{
	return folio_pfn(folio);
}
EXPORT_SYMBOL_GPL(mnh_folio_pfn);

unsigned int mnh_folio_order(const struct folio *folio)
{
	return folio_order(folio);
}
EXPORT_SYMBOL_GPL(mnh_folio_order);

#endif /* CONFIG_DEVICE_PRIVATE */

struct folio *mnh_page_folio(struct page *page)
{
	return page_folio(page);
}
EXPORT_SYMBOL_GPL(mnh_page_folio);

/* The first of pages for the caller's own use; zero if there are none to be had. */
unsigned long mnh_alloc_pages(unsigned int order)
{
	struct page *page = alloc_pages(GFP_HIGHUSER | __GFP_NOWARN, order);

	return page ? page_to_pfn(page) : 0;
}
EXPORT_SYMBOL_GPL(mnh_alloc_pages);

void mnh_free_pages(unsigned long pfn, unsigned int order)
{
	__free_pages(pfn_to_page(pfn), order);
}
EXPORT_SYMBOL_GPL(mnh_free_pages);

#ifdef CONFIG_DEVICE_PRIVATE

/* Memory as an anonymous page fault takes it. */
static gfp_t mnh_migration_gfp(unsigned int order)
{
	return order ? GFP_TRANSHUGE : GFP_HIGHUSER_MOVABLE | __GFP_NOWARN;
}

static unsigned long mnh_folio_locked(struct folio *folio)
{
	if (!folio)
		return 0;
	__folio_set_locked(folio);
	return folio_pfn(folio);
}

/* The first page of a new folio, which is locked; zero if there is none to be had. */
unsigned long mnh_folio_alloc_locked(unsigned int order)
{
	return mnh_folio_locked(folio_alloc(mnh_migration_gfp(order), order));
}
EXPORT_SYMBOL_GPL(mnh_folio_alloc_locked);

unsigned long mnh_vma_alloc_folio_locked(unsigned int order, struct vm_area_struct *vma,
					 unsigned long addr)
{
	return mnh_folio_locked(vma_alloc_folio(mnh_migration_gfp(order), order, vma, addr));
}
EXPORT_SYMBOL_GPL(mnh_vma_alloc_folio_locked);

/*
 * Whether migrate_vma_pages() may be asked to move a folio that it has locked,
 * wherever to. To device memory it moves anonymous folios only. To the system's
 * it would move any: it takes a folio under writeback for a bug, does not ask
 * the file system that a folio belongs to, and secret memory cannot be read.
 */
bool mnh_pfn_may_migrate(unsigned long pfn)
{
	struct folio *folio = page_folio(pfn_to_page(pfn));

	return folio_test_anon(folio) && !folio_test_writeback(folio);
}
EXPORT_SYMBOL_GPL(mnh_pfn_may_migrate);

void mnh_folio_unlock_put(unsigned long pfn)
{
	struct folio *folio = pfn_folio(pfn);

	folio_unlock(folio);
	folio_put(folio);
}
EXPORT_SYMBOL_GPL(mnh_folio_unlock_put);

/*
 * The frame of the page, or an error. The folio is locked and referenced, and
 * dirty, since the core takes what a device does for nothing.
 */
long mnh_make_device_exclusive(struct mm_struct *mm, unsigned long addr, void *owner,
			       unsigned long *first_pfn)
{
	struct folio *folio;
	struct page *page = make_device_exclusive(mm, addr, owner, &folio);

	if (IS_ERR(page))
		return PTR_ERR(page);
	folio_mark_dirty(folio);
	*first_pfn = folio_pfn(folio);
	return page_to_pfn(page);
}
EXPORT_SYMBOL_GPL(mnh_make_device_exclusive);

#endif /* CONFIG_DEVICE_PRIVATE */

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
