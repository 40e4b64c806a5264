/* SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB */
/*
 * Inline functions and macros of the kernel's headers as functions that Rust
 * can call, and what needs a lock class or a definition in C.
 */
#ifndef RDMA_ODP_SHIMS_H
#define RDMA_ODP_SHIMS_H

#include <linux/rwsem.h>
#include <rdma/ib_umem_odp.h>

void odp_registry_lock(void);
void odp_registry_unlock(void);
void odp_init_rwsem(struct rw_semaphore *sem);
void odp_init_mutex(struct ib_umem_odp *umem_odp);
void odp_assert_locked(struct ib_umem_odp *umem_odp);
struct pid *odp_current_tgid(void);
void odp_get_pid(struct pid *pid);
bool odp_is_alive(struct pid *tgid);
bool odp_access_is_on_demand(int access);
bool odp_access_is_writable(int access);
bool odp_access_is_hugetlb(int access);
unsigned int odp_huge_shift(void);
struct device *odp_dma_device(struct ib_device *device);
unsigned long *odp_alloc_pfn_list(size_t entries);
void odp_set_page_dirty(unsigned long pfn);
void odp_say_order(struct ib_umem_odp *umem_odp, unsigned int order);

#endif /* RDMA_ODP_SHIMS_H */
