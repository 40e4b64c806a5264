// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * The C side of rdma_odp_rs, a port of drivers/infiniband/core/umem_odp.c.
 */

#include <linux/export.h>
#include <linux/hugetlb.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include <rdma/ib_umem_odp.h>

#include "odp_shims.h"

/* A function of the crate, with the type that drivers know it by. */
#define odp_export(sym) EXPORT_SYMBOL(sym)

odp_export(ib_umem_odp_alloc_implicit);
odp_export(ib_umem_odp_alloc_child);
odp_export(ib_umem_odp_get);
odp_export(ib_umem_odp_release);
odp_export(ib_umem_odp_map_dma_and_lock);
odp_export(ib_umem_odp_unmap_dma_pages);

static DEFINE_MUTEX(odp_registry_mutex);

void odp_registry_lock(void)
{
	mutex_lock(&odp_registry_mutex);
}

void odp_registry_unlock(void)
{
	mutex_unlock(&odp_registry_mutex);
}

void odp_init_rwsem(struct rw_semaphore *sem)
{
	init_rwsem(sem);
}

/* Anchors have a lock class of their own: nothing that reclaim does takes their lock. */
void odp_init_mutex(struct ib_umem_odp *umem_odp)
{
	if (umem_odp->is_implicit_odp)
		mutex_init(&umem_odp->umem_mutex);
	else
		mutex_init(&umem_odp->umem_mutex);
}

void odp_assert_locked(struct ib_umem_odp *umem_odp)
{
	lockdep_assert_held(&umem_odp->umem_mutex);
}

struct pid *odp_current_tgid(void)
{
	return get_task_pid(current, PIDTYPE_TGID);
}

void odp_get_pid(struct pid *pid)
{
	get_pid(pid);
}

bool odp_is_alive(struct pid *tgid)
{
	guard(rcu)();
	return pid_task(tgid, PIDTYPE_PID);
}

bool odp_access_is_on_demand(int access)
{
	return access & IB_ACCESS_ON_DEMAND;
}

bool odp_access_is_writable(int access)
{
	return ib_access_writable(access);
}

bool odp_access_is_hugetlb(int access)
{
	return access & IB_ACCESS_HUGETLB;
}

unsigned int odp_huge_shift(void)
{
#ifdef CONFIG_HUGETLB_PAGE
	return HPAGE_SHIFT;
#else
	return PAGE_SHIFT;
#endif
}

/* NULL if the CPU is what moves the device's data. */
struct device *odp_dma_device(struct ib_device *device)
{
	return ib_uses_virt_dma(device) ? NULL : device->dma_device;
}

unsigned long *odp_alloc_pfn_list(size_t entries)
{
	return kvcalloc(entries, sizeof(unsigned long), GFP_KERNEL | __GFP_NOWARN);
}

/*
 * folio_mark_dirty() wants the folio locked. Notifiers are called with and without
 * the lock; it is the mutex of the region that keeps the page mapped meanwhile.
 * With anonymous memory, in the swap cache or not, it would come to the flag.
 */
void odp_set_page_dirty(unsigned long pfn)
{
	struct folio *folio = page_folio(pfn_to_page(pfn));

	if (folio_test_dirty(folio))
		return;
	if (folio_test_anon(folio))
		folio_set_dirty(folio);
	else
		folio_mark_dirty(folio);
}

void odp_say_order(struct ib_umem_odp *umem_odp, unsigned int order)
{
	ibdev_dbg(umem_odp->umem.ibdev, "un-expected hmm_order %u, page_shift %u\n",
		  order, umem_odp->page_shift);
}
