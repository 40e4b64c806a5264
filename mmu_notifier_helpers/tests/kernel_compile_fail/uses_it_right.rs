// SPDX-License-Identifier: GPL-2.0

//! What the other cases do wrong, done right: it compiles.

mod driver;

use driver::{Tlb, TlbMirror};
use kernel::{mm::MmWithUser, page::PAGE_SIZE, prelude::*};
use mmu_notifier_helpers::{
    fault::{Access, Buffer, Request},
    mirror::Subscription,
    notifier::Attachment,
    pages::Entry,
    range::PageRange,
};

fn entry(tlb: &Tlb) -> Option<&Entry> {
    tlb.0.as_ref().map(|(_, entry)| entry)
}

pub(crate) fn load(
    attachment: &Attachment<TlbMirror>,
    mm: &MmWithUser,
    page: PageRange,
    data: &mut [u8; PAGE_SIZE],
) -> Result {
    let mut buffer = Buffer::new(1, GFP_KERNEL)?;
    let request = Request::new(page, Access::Write);
    let tlb = attachment.fault(mm, &request, &mut buffer, &mut ())?;
    if let Some(entry) = entry(&tlb) {
        // SAFETY: It is in the shadow, which the guard keeps locked; no request had an owner.
        unsafe {
            entry.copy_to(0, core::slice::from_mut(data));
            entry.mark_dirty();
        }
    }
    Ok(())
}
