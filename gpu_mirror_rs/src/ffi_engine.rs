// SPDX-License-Identifier: GPL-2.0

//! The engine that lets the CPU copy.

use crate::{
    engine::{Engine, Resolve},
    page_table::{PageTable, Run},
};
use core::slice;
use kernel::{
    page::{PAGE_SHIFT, PAGE_SIZE},
    uaccess::UserPtr,
};
use mmu_notifier_helpers::{
    migrate::{Destination, Source},
    pages::{self, Entry},
    range::PageRange,
};

/// The CPU.
pub(crate) struct CpuEngine;

/// Where the CPU finds what is in a frame, and how many pages from there on are neighbours.
fn resolve(memory: &impl Resolve, pfn: usize) -> (usize, usize) {
    memory.backing(pfn).unwrap_or((pfn, usize::MAX))
}

/// Returns the whole pages at the start of a buffer.
fn whole_pages(buffer: &[u8]) -> &[[u8; PAGE_SIZE]] {
    let pages = buffer.len() / PAGE_SIZE;
    // SAFETY: So many pages fit into the buffer, whose bytes are initialized and borrowed for as long
    // as what is returned; an array of bytes is aligned anywhere.
    unsafe { slice::from_raw_parts(buffer.as_ptr().cast(), pages) }
}

/// Returns the whole pages at the start of a buffer, to write to.
fn whole_pages_mut(buffer: &mut [u8]) -> &mut [[u8; PAGE_SIZE]] {
    let pages = buffer.len() / PAGE_SIZE;
    // SAFETY: As in `whole_pages()`, and the buffer is borrowed by nobody else.
    unsafe { slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), pages) }
}

/// Calls `copy` for each piece of `range`, with its entry, the page of that to begin with, the page
/// of the range and how many pages, until it says no or an entry is missing. Returns how many pages
/// were copied.
fn copy_each(
    table: &PageTable<Entry>,
    range: PageRange,
    mut copy: impl FnMut(&Entry, usize, usize, usize) -> bool,
) -> usize {
    let mut done = 0;
    for run in table.runs(range) {
        match run {
            Run::Pages(entries) => {
                for entry in entries.iter().flatten() {
                    if !copy(entry, 0, done, 1) {
                        return done;
                    }
                    done += 1;
                }
            }
            Run::Huge {
                entry,
                first,
                pages,
            } => {
                if !copy(entry, first, done, pages) {
                    return done;
                }
                done += pages;
            }
        }
    }
    done
}

impl Engine for CpuEngine {
    fn read(&self, table: &PageTable<Entry>, range: PageRange, buffer: &mut [u8]) -> usize {
        let data = whole_pages_mut(buffer);
        copy_each(table, range, |entry, page, at, pages| {
            let Some(data) = data.get_mut(at..at + pages) else {
                return false;
            };
            // SAFETY: A table of entries exists as the shadow of a notifier only, and is borrowed
            // here, so the shadow's lock is held; the entry is in it, and maps the pages. It names
            // no private memory, which the shadow resolved when it took the entry in.
            unsafe { entry.copy_to(page, data) };
            true
        })
    }

    fn write(&self, table: &PageTable<Entry>, range: PageRange, buffer: &[u8]) -> usize {
        let data = whole_pages(buffer);
        copy_each(table, range, |entry, page, at, pages| {
            let Some(data) = data.get(at..at + pages).filter(|_| entry.writable()) else {
                return false;
            };
            // SAFETY: As in `read`, and the entry is writable.
            unsafe { entry.copy_from(page, data) };
            true
        })
    }

    fn read_to_user(&self, table: &PageTable<Entry>, range: PageRange, user: UserPtr) -> usize {
        copy_each(table, range, |entry, page, at, pages| {
            let user = user.wrapping_byte_add(at << PAGE_SHIFT);
            // SAFETY: As in `read`.
            unsafe { entry.copy_to_user(page, user, pages) }
        })
    }

    fn write_from_user(&self, table: &PageTable<Entry>, range: PageRange, user: UserPtr) -> usize {
        copy_each(table, range, |entry, page, at, pages| {
            let user = user.wrapping_byte_add(at << PAGE_SHIFT);
            // SAFETY: As in `write`.
            entry.writable() && unsafe { entry.copy_from_user(page, user, pages) }
        })
    }

    fn migrate(
        &self,
        (from, source): (&impl Resolve, Source),
        (to, destination): (&impl Resolve, &Destination),
    ) {
        let mut done = 0;
        while done < source.pages() {
            let (dst, mut pages) = resolve(to, destination.pfn() + done);
            pages = pages.min(source.pages() - done);
            match source.pfn() {
                Some(first) => {
                    let (src, neighbours) = resolve(from, first + done);
                    pages = pages.min(neighbours);
                    // SAFETY: Either is locked, and no CPU uses it, so nobody writes to it; private
                    // memory was resolved. The destination is new, and as large as the source.
                    unsafe { pages::copy_frames(dst, src, pages) };
                }
                // SAFETY: As above.
                None => unsafe { pages::clear_frames(dst, pages) },
            }
            done += pages;
        }
    }
}
