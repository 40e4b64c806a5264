// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! C declarations that the `kernel` crate does not bind, made by bindgen from
//! `kbuild/odp/bindings_helper.h`.

#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::undocumented_unsafe_blocks,
    improper_ctypes,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

use crate::entry;
use kernel::bindings::*;

/// A device of the RDMA subsystem, which only C looks into.
#[repr(C)]
pub struct ib_device {
    _opaque: [u8; 0],
}

include!(env!("RDMA_ODP_RS_BINDINGS"));

/// Refuses to build where the bindings and C disagree about what we share with drivers.
macro_rules! assert_same {
    ($($constant:ident == $rust:expr;)+) => {
        $(const _: () = assert!(
            $rust == $constant as usize,
            concat!("the Rust bindings and C disagree about ", stringify!($rust)),
        );)+
    };
}

use core::mem::{offset_of, size_of};

assert_same! {
    odp_offset_ODP_OFFSET_UMEM_LENGTH == offset_of!(ib_umem_odp, umem.length);
    odp_offset_ODP_OFFSET_UMEM_ADDRESS == offset_of!(ib_umem_odp, umem.address);
    odp_offset_ODP_OFFSET_SGT == offset_of!(ib_umem_odp, umem.sgt_append);
    odp_offset_ODP_OFFSET_NOTIFIER == offset_of!(ib_umem_odp, notifier);
    odp_offset_ODP_OFFSET_TGID == offset_of!(ib_umem_odp, tgid);
    odp_offset_ODP_OFFSET_MAP == offset_of!(ib_umem_odp, map);
    odp_offset_ODP_OFFSET_PFN_LIST == offset_of!(ib_umem_odp, map.pfn_list);
    odp_offset_ODP_OFFSET_MUTEX == offset_of!(ib_umem_odp, umem_mutex);
    odp_offset_ODP_OFFSET_PRIVATE == offset_of!(ib_umem_odp, private);
    odp_offset_ODP_OFFSET_NPAGES == offset_of!(ib_umem_odp, npages);
    odp_offset_ODP_OFFSET_IMPLICIT == offset_of!(ib_umem_odp, is_implicit_odp);
    odp_offset_ODP_OFFSET_PAGE_SHIFT == offset_of!(ib_umem_odp, page_shift);
    odp_offset_ODP_OFFSET_INTERVAL_TREE == offset_of!(mmu_interval_notifier, interval_tree);
    odp_offset_ODP_OFFSET_INTERVAL_OPS == offset_of!(mmu_interval_notifier, ops);
    odp_offset_ODP_OFFSET_INTERVAL_MM == offset_of!(mmu_interval_notifier, mm);
    odp_offset_ODP_OFFSET_INTERVAL_SEQ == offset_of!(mmu_interval_notifier, invalidate_seq);
    odp_offset_ODP_OFFSET_LAST == offset_of!(interval_tree_node, last);
    odp_offset_ODP_OFFSET_RANGE_START == offset_of!(mmu_notifier_range, start);
    odp_offset_ODP_OFFSET_RANGE_END == offset_of!(mmu_notifier_range, end);
    odp_size_ODP_SIZE_UMEM_ODP == size_of::<ib_umem_odp>();
    odp_size_ODP_SIZE_INTERVAL == size_of::<mmu_interval_notifier>();
    odp_size_ODP_SIZE_RWSEM == size_of::<rw_semaphore>();
    hmm_pfn_flags_HMM_PFN_VALID == entry::VALID;
    hmm_pfn_flags_HMM_PFN_WRITE == entry::WRITE;
    hmm_pfn_flags_HMM_PFN_ERROR == entry::ERROR;
    hmm_pfn_flags_HMM_PFN_DMA_MAPPED == entry::DMA_MAPPED;
    hmm_pfn_flags_HMM_PFN_P2PDMA == entry::P2PDMA;
    hmm_pfn_flags_HMM_PFN_P2PDMA_BUS == entry::P2PDMA_BUS;
    hmm_pfn_flags_HMM_PFN_ORDER_SHIFT == entry::ORDER_SHIFT;
    hmm_pfn_flags_HMM_PFN_FLAGS == entry::FLAGS;
}
