/* SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB */
/*
 * What bindgen reads for rdma_odp_rs: headers that the kernel crate's own
 * bindings lack. See bindgen_parameters for what is taken of them.
 */

#include <linux/hmm-dma.h>
#include <linux/hmm.h>
#include <linux/mmu_notifier.h>
#include <rdma/ib_umem_odp.h>

#include "odp_shims.h"
/* The helpers'. */
#include "shims.h"

/*
 * Where C has the fields that we share with drivers. The crate compares:
 * bindgen loses the alignment of structures that are empty in some
 * configurations.
 */
enum odp_offset {
	ODP_OFFSET_UMEM_LENGTH = offsetof(struct ib_umem_odp, umem.length),
	ODP_OFFSET_UMEM_ADDRESS = offsetof(struct ib_umem_odp, umem.address),
	ODP_OFFSET_SGT = offsetof(struct ib_umem_odp, umem.sgt_append),
	ODP_OFFSET_NOTIFIER = offsetof(struct ib_umem_odp, notifier),
	ODP_OFFSET_TGID = offsetof(struct ib_umem_odp, tgid),
	ODP_OFFSET_MAP = offsetof(struct ib_umem_odp, map),
	ODP_OFFSET_PFN_LIST = offsetof(struct ib_umem_odp, map.pfn_list),
	ODP_OFFSET_MUTEX = offsetof(struct ib_umem_odp, umem_mutex),
	ODP_OFFSET_PRIVATE = offsetof(struct ib_umem_odp, private),
	ODP_OFFSET_NPAGES = offsetof(struct ib_umem_odp, npages),
	ODP_OFFSET_IMPLICIT = offsetof(struct ib_umem_odp, is_implicit_odp),
	ODP_OFFSET_PAGE_SHIFT = offsetof(struct ib_umem_odp, page_shift),
	ODP_OFFSET_INTERVAL_TREE = offsetof(struct mmu_interval_notifier, interval_tree),
	ODP_OFFSET_INTERVAL_OPS = offsetof(struct mmu_interval_notifier, ops),
	ODP_OFFSET_INTERVAL_MM = offsetof(struct mmu_interval_notifier, mm),
	ODP_OFFSET_INTERVAL_SEQ = offsetof(struct mmu_interval_notifier, invalidate_seq),
	ODP_OFFSET_LAST = offsetof(struct interval_tree_node, last),
	ODP_OFFSET_RANGE_START = offsetof(struct mmu_notifier_range, start),
	ODP_OFFSET_RANGE_END = offsetof(struct mmu_notifier_range, end),
};

enum odp_size {
	ODP_SIZE_UMEM_ODP = sizeof(struct ib_umem_odp),
	ODP_SIZE_INTERVAL = sizeof(struct mmu_interval_notifier),
	ODP_SIZE_RWSEM = sizeof(struct rw_semaphore),
};
