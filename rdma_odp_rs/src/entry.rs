// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! An entry of a region's page list, which the drivers read: a page frame and its flags, as hmm
//! writes them.
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h)

#![forbid(unsafe_code)]

pub(crate) const VALID: usize = 1 << 63;
pub(crate) const WRITE: usize = 1 << 62;
#[cfg_attr(not(CONFIG_RUST), allow(dead_code))]
pub(crate) const ERROR: usize = 1 << 61;
pub(crate) const DMA_MAPPED: usize = 1 << 60;
pub(crate) const P2PDMA: usize = 1 << 59;
pub(crate) const P2PDMA_BUS: usize = 1 << 58;
pub(crate) const ORDER_SHIFT: usize = 53;
pub(crate) const FLAGS: usize = !((1 << ORDER_SHIFT) - 1);
/// What a driver's mapping for DMA leaves in an entry.
const STICKY: usize = DMA_MAPPED | P2PDMA | P2PDMA_BUS;

/// An entry: nothing, or a page with how it may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Entry(usize);

impl Entry {
    /// No page.
    pub const NONE: Self = Self(0);

    /// As hmm and the drivers write it.
    pub const fn from_raw(raw: usize) -> Self {
        Self(raw)
    }

    /// As the drivers read it.
    pub const fn raw(self) -> usize {
        self.0
    }

    /// Whether it has all bits that `wanted` has.
    pub(crate) const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Whether there is a page.
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Whether the device may write to it.
    pub const fn is_writable(self) -> bool {
        self.0 & WRITE != 0
    }

    /// Whether the driver has mapped it for DMA.
    pub const fn is_dma_mapped(self) -> bool {
        self.0 & DMA_MAPPED != 0
    }

    /// The number of the page's frame.
    pub const fn pfn(self) -> usize {
        self.0 & !FLAGS
    }

    /// log2 of the pages that the CPU maps by the one page-table entry that this was read from.
    pub const fn order(self) -> u32 {
        (self.0 >> ORDER_SHIFT & 0x1f) as u32
    }

    /// The same page as `read`, which was read just now, with the marks that this entry has for
    /// DMA.
    pub(crate) const fn refreshed(self, read: Self) -> Self {
        Self(read.0 & !STICKY | self.0 & STICKY)
    }
}
