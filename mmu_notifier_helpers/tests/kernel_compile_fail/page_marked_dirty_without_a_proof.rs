// SPDX-License-Identifier: GPL-2.0
// error[E0133]

//! An entry may be anywhere; its page is not free for as long as it is in a locked shadow.

mod driver;

use mmu_notifier_helpers::pages::Entry;

pub(crate) fn mark(entry: &Entry) {
    entry.mark_dirty();
}
