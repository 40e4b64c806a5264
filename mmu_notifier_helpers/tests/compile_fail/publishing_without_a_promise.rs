// SPDX-License-Identifier: GPL-2.0

//! A shadow that takes entries in promises that it neither sleeps nor allocates.

use mmu_notifier_helpers::invlock::Publish;

struct Log(Vec<usize>);

impl Publish<usize> for Log {
    type Output = ();

    fn publish(&mut self, pfn: usize) {
        self.0.push(pfn);
    }
}

fn main() {}
