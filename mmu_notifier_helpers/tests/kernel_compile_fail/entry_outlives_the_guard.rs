// SPDX-License-Identifier: GPL-2.0
// error[E0515]

//! A reference to an entry is good for as long as the shadow is locked.

mod driver;

use driver::TlbMirror;
use mmu_notifier_helpers::{mirror::Subscription, notifier::Attachment, pages::Entry};

pub(crate) fn keep(attachment: &Attachment<TlbMirror>) -> Option<&Entry> {
    attachment.lock().0.as_ref().map(|(_, entry)| entry)
}
