/* SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB */
/*
 * What bindgen reads for rdma_odp_rxe. See bindgen_parameters for what is taken of it.
 */

#include <linux/hmm.h>
#include <linux/mmu_notifier.h>
#include <rdma/ib_umem_odp.h>

#include "rxe.h"
#include "rxe_shims.h"

/* Where C has the fields that we touch; compared with where Rust has them. */
enum rxe_rs_layout {
	RXE_RS_UMEM_ADDRESS = offsetof(struct ib_umem_odp, umem.address),
	RXE_RS_UMEM_LENGTH = offsetof(struct ib_umem_odp, umem.length),
	RXE_RS_UMEM_OWNING_MM = offsetof(struct ib_umem_odp, umem.owning_mm),
	RXE_RS_UMEM_START = offsetof(struct ib_umem_odp, notifier.interval_tree.start),
	RXE_RS_UMEM_LAST = offsetof(struct ib_umem_odp, notifier.interval_tree.last),
	RXE_RS_UMEM_PFN_LIST = offsetof(struct ib_umem_odp, map.pfn_list),
	RXE_RS_UMEM_MUTEX = offsetof(struct ib_umem_odp, umem_mutex),
	RXE_RS_UMEM_PRIVATE = offsetof(struct ib_umem_odp, private),
	RXE_RS_UMEM_IMPLICIT = offsetof(struct ib_umem_odp, is_implicit_odp),
	RXE_RS_UMEM_PAGE_SHIFT = offsetof(struct ib_umem_odp, page_shift),
	RXE_RS_UMEM_SIZE = sizeof(struct ib_umem_odp),
	RXE_RS_MR_ELEM = offsetof(struct rxe_mr, elem),
	RXE_RS_MR_IOVA = offsetof(struct rxe_mr, ibmr.iova),
	RXE_RS_MR_LENGTH = offsetof(struct rxe_mr, ibmr.length),
	RXE_RS_MR_TYPE = offsetof(struct rxe_mr, ibmr.type),
	RXE_RS_MR_UMEM = offsetof(struct rxe_mr, umem),
	RXE_RS_MR_STATE = offsetof(struct rxe_mr, state),
	RXE_RS_MR_ACCESS = offsetof(struct rxe_mr, access),
	RXE_RS_MR_SIZE = sizeof(struct rxe_mr),
	RXE_RS_COMPARE_SWAP = IB_OPCODE_RC_COMPARE_SWAP,
	RXE_RS_PD_IBPD = offsetof(struct rxe_pd, ibpd),
	RXE_RS_DEV_IB_DEV = offsetof(struct rxe_dev, ib_dev),
	RXE_RS_RANGE_EVENT = offsetof(struct mmu_notifier_range, event),
	RXE_RS_RANGE_START = offsetof(struct mmu_notifier_range, start),
	RXE_RS_RANGE_END = offsetof(struct mmu_notifier_range, end),
	RXE_RS_OPS_INVALIDATE = offsetof(struct mmu_interval_notifier_ops, invalidate),
	RXE_RS_OPS_SIZE = sizeof(struct mmu_interval_notifier_ops),
};
