// SPDX-License-Identifier: GPL-2.0

//! Moving pages of a mirrored process to the memory of the device and back.
//!
//! # Locks
//!
//! mmap lock -> locks of the pages -> the mutex of the reserve for eviction, or the lock of a
//! chunk's free pages.

#![forbid(unsafe_code)]

use crate::{
    engine::{Engine, Resolve, System},
    ffi_engine::CpuEngine,
    memory::{Control, Memory},
    mirror::AddressSpace,
    page_table::{Leaves, Reserve, LEAF_PAGES},
};
use kernel::prelude::*;
use mmu_notifier_helpers::{
    fault::Buffer,
    frames::Order,
    migrate::{Destination, Migrated, Mover, Place, Room, Select, Source},
    mirror::Subscription,
    pages::Entry,
    range::PageRange,
    wait::fatal_signal_pending,
};

/// Moves pages to the memory of a device.
struct ToDevice<'a>(&'a Memory);

impl Mover for ToDevice<'_> {
    fn allocate(&mut self, order: u32, _at: Option<Place<'_>>) -> Option<Destination> {
        if self.0.control().fails() {
            return None;
        }
        self.0
            .alloc(if order == 0 { Order::Page } else { Order::Huge })
    }

    fn copy(&mut self, source: Source, destination: &Destination) {
        CpuEngine.migrate((&System, source), (self.0, destination));
    }
}

/// For what pages are moved to the system's memory.
enum Cause<'a> {
    /// An ioctl asks for it.
    Asked(&'a Control),
    /// A CPU does.
    Cpu(&'a Control),
    /// The device wants to be rid of them.
    Eviction(&'a Control),
}

/// Moves pages of a device to the system's memory.
pub(crate) struct ToSystem<'a, R> {
    memory: &'a R,
    cause: Cause<'a>,
    /// Whether a single page found no place.
    short: bool,
}

impl<'a, R: Resolve> ToSystem<'a, R> {
    fn new(memory: &'a R, cause: Cause<'a>) -> Self {
        Self {
            memory,
            cause,
            short: false,
        }
    }

    /// For a CPU that stumbled on a page.
    pub(crate) fn for_cpu(memory: &'a R, control: &'a Control) -> Self {
        Self::new(memory, Cause::Cpu(control))
    }
}

impl<'a> ToSystem<'a, Memory> {
    /// For pages whose users are not known.
    pub(crate) fn evicting(memory: &'a Memory) -> Self {
        Self::new(memory, Cause::Eviction(memory.control()))
    }
}

impl<R: Resolve> Mover for ToSystem<'_, R> {
    fn allocate(&mut self, order: u32, at: Option<Place<'_>>) -> Option<Destination> {
        let fails = match self.cause {
            Cause::Asked(control) => control.fails(),
            // Without the one page the process could not go on.
            Cause::Cpu(control) => order > 0 && control.fails(),
            Cause::Eviction(_) => false,
        };
        let new = match fails {
            true => None,
            false => Destination::system(order, at),
        };
        let new = new.or_else(|| match self.cause {
            Cause::Eviction(control) if order > 0 => control.take_reserve(),
            _ => None,
        });
        self.short |= new.is_none() && order == 0;
        new
    }

    fn copy(&mut self, source: Source, destination: &Destination) {
        CpuEngine.migrate((self.memory, source), (&System, destination));
    }
}

/// Calls `migrate` for each part of `range` that a leaf and a VMA cover, until it fails or the
/// caller is being killed.
fn each_part(
    space: &AddressSpace,
    range: PageRange,
    mut migrate: impl FnMut(&kernel::mm::MmWithUser, &PageRange) -> Result<Migrated>,
) -> Result {
    for leaf in range.leaves() {
        let mut rest = Some(leaf);
        while let Some(part) = rest {
            if fatal_signal_pending() {
                return Err(EINTR);
            }
            let mm = space.mm().mmget_not_zero().ok_or(EINVAL)?;
            rest = part.tail(migrate(&mm, &part)?.end);
        }
    }
    Ok(())
}

/// Moves the pages of `range` to `memory`, as far as they can be moved and there is room, and maps
/// them for the device.
///
/// # Errors
///
/// - `EINVAL`: part of the range has no mapping, or one that cannot be read, or whose memory cannot
///   be moved; or the process is gone.
/// - `EINTR`, `EBUSY`, `EFAULT`, `ENOMEM`.
pub(crate) fn to_device(space: &AddressSpace, memory: &Memory, range: PageRange) -> Result {
    let pages = range.pages().min(LEAF_PAGES);
    let mut room = Room::new(pages, GFP_KERNEL)?;
    let mut buffer = Buffer::new(pages, GFP_KERNEL)?;
    let mut reserve = Reserve::<Entry>::default();
    each_part(space, range, |mm, part| {
        memory.prepare(part.pages());
        reserve.fill()?;
        let publish = Some((&mut buffer, &mut reserve));
        let mut mover = ToDevice(memory);
        space.migrate(mm, part, Select::System, &mut mover, &mut room, publish)
    })
}

/// Moves what is in `memory` of `range` back to the system's. Returns how many pages that were.
///
/// # Errors
///
/// Those of [`to_device`]. `ENOMEM` is also for a private page that found no place. A coherent one
/// may as well stay where it is.
pub(crate) fn to_system(space: &AddressSpace, memory: &Memory, range: PageRange) -> Result<usize> {
    let mut room = Room::new(range.pages().min(LEAF_PAGES), GFP_KERNEL)?;
    let select = memory.select();
    let mut moved = 0;
    each_part(space, range, |mm, part| {
        let mut mover = ToSystem::new(memory, Cause::Asked(memory.control()));
        let migrated = space.migrate(mm, part, select, &mut mover, &mut room, None)?;
        moved += migrated.pages;
        match select {
            Select::Private(_) if mover.short => Err(ENOMEM),
            _ => Ok(migrated),
        }
    })?;
    Ok(moved)
}
