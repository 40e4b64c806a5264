// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! C declarations that the `kernel` crate does not bind, made by bindgen from
//! `bindings_helper.h`.

#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    improper_ctypes,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

use kernel::bindings::*;

include!(env!("RDMA_ODP_RXE_BINDINGS"));

/// Refuses to build where the bindings and C disagree.
macro_rules! assert_layout {
    ($($constant:ident = $value:expr;)+) => {
        $(const _: () = assert!(
            $value == $constant as usize,
            concat!("not as in C: ", stringify!($value)),
        );)+
    };
}

use core::mem::{offset_of, size_of};

assert_layout! {
    rxe_rs_layout_RXE_RS_UMEM_ADDRESS = offset_of!(ib_umem_odp, umem.address);
    rxe_rs_layout_RXE_RS_UMEM_LENGTH = offset_of!(ib_umem_odp, umem.length);
    rxe_rs_layout_RXE_RS_UMEM_OWNING_MM = offset_of!(ib_umem_odp, umem.owning_mm);
    rxe_rs_layout_RXE_RS_UMEM_START = offset_of!(ib_umem_odp, notifier.interval_tree.start);
    rxe_rs_layout_RXE_RS_UMEM_LAST = offset_of!(ib_umem_odp, notifier.interval_tree.last);
    rxe_rs_layout_RXE_RS_UMEM_PFN_LIST = offset_of!(ib_umem_odp, map.pfn_list);
    rxe_rs_layout_RXE_RS_UMEM_MUTEX = offset_of!(ib_umem_odp, umem_mutex);
    rxe_rs_layout_RXE_RS_UMEM_PRIVATE = offset_of!(ib_umem_odp, private);
    rxe_rs_layout_RXE_RS_UMEM_IMPLICIT = offset_of!(ib_umem_odp, is_implicit_odp);
    rxe_rs_layout_RXE_RS_UMEM_PAGE_SHIFT = offset_of!(ib_umem_odp, page_shift);
    rxe_rs_layout_RXE_RS_UMEM_SIZE = size_of::<ib_umem_odp>();
    rxe_rs_layout_RXE_RS_MR_ELEM = offset_of!(rxe_mr, elem);
    rxe_rs_layout_RXE_RS_MR_IOVA = offset_of!(rxe_mr, ibmr.iova);
    rxe_rs_layout_RXE_RS_MR_LENGTH = offset_of!(rxe_mr, ibmr.length);
    rxe_rs_layout_RXE_RS_MR_TYPE = offset_of!(rxe_mr, ibmr.type_);
    rxe_rs_layout_RXE_RS_MR_UMEM = offset_of!(rxe_mr, umem);
    rxe_rs_layout_RXE_RS_MR_STATE = offset_of!(rxe_mr, state);
    rxe_rs_layout_RXE_RS_MR_ACCESS = offset_of!(rxe_mr, access);
    rxe_rs_layout_RXE_RS_MR_SIZE = size_of::<rxe_mr>();
    rxe_rs_layout_RXE_RS_RANGE_EVENT = offset_of!(mmu_notifier_range, event);
    rxe_rs_layout_RXE_RS_RANGE_START = offset_of!(mmu_notifier_range, start);
    rxe_rs_layout_RXE_RS_RANGE_END = offset_of!(mmu_notifier_range, end);
    rxe_rs_layout_RXE_RS_OPS_INVALIDATE = offset_of!(mmu_interval_notifier_ops, invalidate);
    rxe_rs_layout_RXE_RS_OPS_SIZE = size_of::<mmu_interval_notifier_ops>();
}
