// SPDX-License-Identifier: GPL-2.0
// error[E0505]

//! To give up the users of an mm may invalidate all of it, so it comes after the guard.

mod driver;

use driver::TlbMirror;
use kernel::{mm::MmWithUser, prelude::*, sync::aref::ARef};
use mmu_notifier_helpers::{
    fault::{Access, Buffer, Request},
    mirror::Subscription,
    notifier::Attachment,
    range::PageRange,
};

pub(crate) fn fault(
    attachment: &Attachment<TlbMirror>,
    mm: ARef<MmWithUser>,
    page: PageRange,
    buffer: &mut Buffer,
) -> Result {
    let request = Request::new(page, Access::Read);
    let tlb = attachment.fault(&mm, &request, buffer, &mut ())?;
    drop(mm);
    drop(tlb);
    Ok(())
}
