// SPDX-License-Identifier: GPL-2.0
// error[E0507]

//! There is one entry for each time that it was read and checked.

mod driver;

use driver::TlbMirror;
use mmu_notifier_helpers::{mirror::Subscription, notifier::Attachment, pages::Entry};

pub(crate) fn copy(attachment: &Attachment<TlbMirror>) -> Option<Entry> {
    attachment.lock().0.as_ref().map(|(_, entry)| *entry)
}
