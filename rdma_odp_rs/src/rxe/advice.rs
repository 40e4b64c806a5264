// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! Advice on memory that will be needed.

use super::transfer::Access;

/// How pages get into a page list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// As the process would have touched them.
    In(Access),
    /// As far as they are there; the process's page tables stay as they are.
    Snapshot,
}

/// What the process advises (`enum ib_uverbs_advise_mr_advice`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Memory will be read.
    Prefetch,
    /// Memory will be written to.
    PrefetchWrite,
    /// Memory will be used, if it is there.
    PrefetchNoFault,
}

impl Advice {
    /// The one with this number, if there is one that we know.
    pub fn new(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Prefetch),
            1 => Some(Self::PrefetchWrite),
            2 => Some(Self::PrefetchNoFault),
            _ => None,
        }
    }

    /// How to follow it.
    pub fn fault(self) -> Fault {
        match self {
            Self::Prefetch => Fault::In(Access::Read),
            Self::PrefetchWrite => Fault::In(Access::Write),
            Self::PrefetchNoFault => Fault::Snapshot,
        }
    }
}

#[cfg(all(test, not(CONFIG_RUST)))]
mod tests {
    use super::*;

    #[test]
    fn only_three_are_known() {
        assert_eq!(Advice::new(0), Some(Advice::Prefetch));
        assert_eq!(Advice::new(2), Some(Advice::PrefetchNoFault));
        assert!((3..9).chain([u32::MAX]).all(|n| Advice::new(n).is_none()));
    }

    #[test]
    fn only_write_advice_faults_for_writing() {
        assert_eq!(Advice::Prefetch.fault(), Fault::In(Access::Read));
        assert_eq!(Advice::PrefetchWrite.fault(), Fault::In(Access::Write));
        assert_eq!(Advice::PrefetchNoFault.fault(), Fault::Snapshot);
    }
}
