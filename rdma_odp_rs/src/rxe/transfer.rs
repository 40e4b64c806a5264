// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! Moving bytes between a packet and the pages of a region.

use super::{advice::Fault, window::Span};
use kernel::prelude::*;

/// How many faults may get nothing for one transfer. A fault is disturbed by invalidations, and in
/// C by one of the same page for another access, whose entry may come last.
const MAX_TRIES: u32 = 16;

/// What is to be done with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The device reads it.
    Read,
    /// The device changes it.
    Write,
}

/// The pages of a region, while none of them can go away.
pub trait Pages {
    /// The pages from the start of the span on that may be there for the asking, if that before is
    /// known and none of them is.
    fn ahead(&self, span: Span) -> Option<Span>;

    /// Reads the bytes at an address. If they are not of one page, or that is not there, nothing
    /// happens: `false`.
    fn read(&self, address: u64, to: &mut [u8]) -> bool;

    /// Writes the bytes at an address. If they are not of one page, or that is not there or not to
    /// be written to, nothing happens: `false`.
    fn write(&mut self, address: u64, from: &[u8]) -> bool;
}

/// A region whose pages come and go.
pub trait Paged {
    /// Keeps the pages that are there from going away.
    type Locked<'a>: Pages
    where
        Self: 'a;

    /// Takes the pages as they are.
    fn lock(&self) -> Self::Locked<'_>;

    /// Gets the pages of the span in, or some of them.
    ///
    /// # Errors
    ///
    /// As for the process itself: there is no memory, or not for this access.
    fn fault(&self, span: Span, fault: Fault) -> Result<Self::Locked<'_>>;
}

/// Does something to all of a span, and gets in those pages only that are not there.
///
/// Where transfers go from page to page, it takes what the process has there already: mostly that
/// is all, and one look at the page tables serves many transfers. Where the memory was never
/// touched, that look is for nothing, a few times.
///
/// `step` is given what is left of the span, does as much as it can from the start, and says how
/// many bytes that was.
///
/// # Errors
///
/// Those of the fault; [`EFAULT`] if it gets no page that allows the access, time after time.
#[inline]
pub fn complete<P: Paged>(
    region: &P,
    span: Span,
    access: Access,
    mut step: impl FnMut(&mut P::Locked<'_>, Span) -> u64,
) -> Result {
    let mut left = span;
    let mut pages = region.lock();
    left.skip(step(&mut pages, left));
    if left.length() == 0 {
        return Ok(());
    }
    let ahead = pages.ahead(left);
    drop(pages);
    if let Some(Ok(mut pages)) = ahead.map(|span| region.fault(span, Fault::Snapshot)) {
        left.skip(step(&mut pages, left));
    }
    let mut tries = 0;
    while left.length() > 0 {
        let done = match region.fault(left, Fault::In(access)) {
            Ok(mut pages) => step(&mut pages, left),
            Err(error) if error == EBUSY => 0,
            Err(error) => return Err(error),
        };
        left.skip(done);
        if done == 0 {
            tries += 1;
            if tries == MAX_TRIES {
                return Err(EFAULT);
            }
        }
    }
    Ok(())
}

/// Fills the buffer from the span, as long as there are pages. Returns how many bytes that was.
#[inline]
pub fn read(pages: &impl Pages, span: Span, mut to: &mut [u8]) -> u64 {
    let mut done = 0;
    for part in span.pages() {
        let Some((bytes, rest)) = to.split_at_mut_checked(part.length() as usize) else {
            break;
        };
        if !pages.read(part.start(), bytes) {
            break;
        }
        done += part.length();
        to = rest;
    }
    done
}

/// Copies the buffer to the span, as long as there are pages. Returns how many bytes that was.
#[inline]
pub fn write(pages: &mut impl Pages, span: Span, mut from: &[u8]) -> u64 {
    let mut done = 0;
    for part in span.pages() {
        let Some((bytes, rest)) = from.split_at_checked(part.length() as usize) else {
            break;
        };
        if !pages.write(part.start(), bytes) {
            break;
        }
        done += part.length();
        from = rest;
    }
    done
}

/// Reads a span of a region, from the place in the packet that is left of it.
///
/// # Errors
///
/// See [`complete`]. The start of the buffer may have been filled.
#[inline]
pub fn read_all<P: Paged>(region: &P, span: Span, to: &mut [u8]) -> Result {
    let length = span.length();
    complete(region, span, Access::Read, |pages, left| {
        read(pages, left, &mut to[(length - left.length()) as usize..])
    })
}

/// Writes a span of a region.
///
/// # Errors
///
/// See [`complete`]. The start of the span may have been written.
#[inline]
pub fn write_all<P: Paged>(region: &P, span: Span, from: &[u8]) -> Result {
    let length = span.length();
    complete(region, span, Access::Write, |pages, left| {
        write(pages, left, &from[(length - left.length()) as usize..])
    })
}

/// Reads a span if it is within one page, and that is there, as nearly every packet's is: `false`
/// if nothing happened.
#[inline]
pub fn read_page<P: Paged>(region: &P, span: Span, to: &mut [u8]) -> bool {
    region.lock().read(span.start(), to)
}

/// The same for writing.
#[inline]
pub fn write_page<P: Paged>(region: &P, span: Span, from: &[u8]) -> bool {
    region.lock().write(span.start(), from)
}

#[cfg(all(test, not(CONFIG_RUST)))]
mod tests {
    use super::super::window::{Window, PAGE_SIZE};
    use super::*;
    use proptest::prelude::*;
    use std::cell::{RefCell, RefMut};

    const PAGE: usize = PAGE_SIZE as usize;
    const PAGES: usize = 6;

    /// What is there of a page in the page list.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Entry {
        Empty,
        ReadOnly,
        Writable,
    }

    /// Pages, each on its own, as they are in memory, and a page list that forgets.
    struct Memory {
        base: u64,
        pages: Vec<Vec<u8>>,
        list: [Entry; PAGES],
        /// What the process itself may do.
        process: [Entry; PAGES],
        /// What of that is in its page tables.
        touched: [Entry; PAGES],
        /// How many pages a fault gets, as an invalidation may take away the others again.
        at_once: usize,
        faults: Vec<Span>,
        snapshots: Vec<Span>,
        /// How many faults are disturbed.
        busy: u32,
    }

    impl Memory {
        fn new(base: u64) -> Self {
            let byte = |i: usize| (i.wrapping_mul(0x9e37_79b9) >> 16) as u8;
            Self {
                base,
                pages: (0..PAGES)
                    .map(|p| (0..PAGE).map(|i| byte(p * PAGE + i)).collect())
                    .collect(),
                list: [Entry::Empty; PAGES],
                process: [Entry::Writable; PAGES],
                touched: [Entry::Empty; PAGES],
                at_once: PAGES,
                faults: Vec::new(),
                snapshots: Vec::new(),
                busy: 0,
            }
        }

        /// Which page, and where in it, if as many bytes from the address on are in it.
        fn place(&self, address: u64, length: usize) -> Option<(usize, usize)> {
            let at = address.checked_sub(self.base)? as usize;
            let (index, offset) = (at / PAGE, at % PAGE);
            (index < PAGES && (1..=PAGE - offset).contains(&length)).then_some((index, offset))
        }

        fn index(&self, address: u64) -> usize {
            self.place(address, 1).unwrap().0
        }

        /// The same as the array of bytes that a process sees.
        fn flat(&self) -> Vec<u8> {
            self.pages.concat()
        }
    }

    struct Region(RefCell<Memory>);

    impl Paged for Region {
        type Locked<'a> = RefMut<'a, Memory>;

        fn lock(&self) -> RefMut<'_, Memory> {
            self.0.borrow_mut()
        }

        fn fault(&self, span: Span, fault: Fault) -> Result<RefMut<'_, Memory>> {
            // No lock is held here, or this panics.
            let mut memory = self.0.borrow_mut();
            match fault {
                Fault::Snapshot => memory.snapshots.push(span),
                Fault::In(_) => memory.faults.push(span),
            }
            if memory.busy > 0 && fault != Fault::Snapshot {
                memory.busy -= 1;
                return Err(EBUSY);
            }
            let at_once = memory.at_once;
            for part in span.pages().take(at_once) {
                let index = memory.index(part.start());
                let entry = match fault {
                    Fault::Snapshot => memory.touched[index],
                    Fault::In(_) => memory.process[index],
                };
                if fault != Fault::Snapshot && entry == Entry::Empty
                    || fault == Fault::In(Access::Write) && entry != Entry::Writable
                {
                    return Err(EPERM);
                }
                memory.list[index] = entry;
            }
            Ok(memory)
        }
    }

    impl Pages for RefMut<'_, Memory> {
        fn ahead(&self, span: Span) -> Option<Span> {
            let ahead = span.ahead(self.base, self.base + (PAGES * PAGE) as u64)?;
            let before = self.index(ahead.start()).checked_sub(1)?;
            let is_known = |index: usize| self.list[index] != Entry::Empty;
            let any = ahead.pages().any(|page| is_known(self.index(page.start())));
            (is_known(before) && !any).then_some(ahead)
        }

        fn read(&self, address: u64, to: &mut [u8]) -> bool {
            match self.place(address, to.len()) {
                Some((index, offset)) if self.list[index] != Entry::Empty => {
                    to.copy_from_slice(&self.pages[index][offset..][..to.len()]);
                    true
                }
                _ => false,
            }
        }

        fn write(&mut self, address: u64, from: &[u8]) -> bool {
            match self.place(address, from.len()) {
                Some((index, offset)) if self.list[index] == Entry::Writable => {
                    self.pages[index][offset..][..from.len()].copy_from_slice(from);
                    true
                }
                _ => false,
            }
        }
    }

    #[derive(Clone, Debug)]
    struct Place {
        base: u64,
        skip: u64,
        iova: u64,
        length: u64,
    }

    prop_compose! {
        fn any_place()(
            page in 1..1u64 << 40,
            skip in 0..PAGE_SIZE,
            iova in any::<u32>(),
            length in 1..(PAGES as u64 - 1) * PAGE_SIZE,
        ) -> Place {
            Place { base: page * PAGE_SIZE, skip, iova: iova.into(), length }
        }
    }

    proptest! {
        /// Many transfers of any place and length, packet by packet, against an array of bytes,
        /// while the page list loses entries.
        #[test]
        fn transfers_as_an_array_does(
            place in any_place(),
            transfers in proptest::collection::vec(
                (any::<bool>(), any::<u64>(), any::<u64>(), any::<u8>(), 0..2 * PAGES), 1..16),
            mtu in prop_oneof![Just(256usize), Just(1024), Just(4096), Just(3 * 4096)],
            at_once in 1..=PAGES,
            touched in any::<[bool; PAGES]>(),
        ) {
            let mut memory = Memory::new(place.base);
            memory.at_once = at_once;
            memory.touched =
                touched.map(|touched| if touched { Entry::ReadOnly } else { Entry::Empty });
            let mut flat = memory.flat();
            let region = Region(RefCell::new(memory));
            let window =
                Window::new(place.iova, place.base + place.skip, place.length).unwrap();
            for (writes, at, bytes, seed, lost) in transfers {
                let at = at % place.length;
                let bytes = (1 + bytes % (place.length - at)) as usize;
                let first = (place.skip + at) as usize;
                let mut data: Vec<u8> =
                    (0..bytes).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
                let mut iova = place.iova + at;
                for packet in data.chunks_mut(mtu) {
                    let span = window.locate(iova, packet.len() as u64).unwrap();
                    match writes {
                        true if write_page(&region, span, packet) => {}
                        true => write_all(&region, span, packet).unwrap(),
                        false if read_page(&region, span, packet) => {}
                        false => read_all(&region, span, packet).unwrap(),
                    }
                    iova += packet.len() as u64;
                }
                if writes {
                    flat[first..][..bytes].copy_from_slice(&data);
                } else {
                    prop_assert_eq!(&flat[first..][..bytes], &data[..]);
                }
                prop_assert_eq!(&region.lock().flat(), &flat);
                if let Some(entry) = region.lock().list.get_mut(lost) {
                    *entry = Entry::Empty;
                }
            }
        }

        /// What the process may not do, the device may not do for it; and nothing changes beyond.
        #[test]
        fn refuses_what_the_process_may_not_do(
            start in 0..2 * PAGE_SIZE,
            length in 1..3 * PAGE_SIZE,
            writes in any::<bool>(),
            process in proptest::collection::vec(
                prop_oneof![Just(Entry::Empty), Just(Entry::ReadOnly), Just(Entry::Writable)],
                PAGES,
            ),
        ) {
            let base = 7 * PAGE_SIZE;
            let mut memory = Memory::new(base);
            memory.process = process.clone().try_into().unwrap();
            let before = memory.flat();
            let region = Region(RefCell::new(memory));
            let span = Window::ALL.locate(base + start, length).unwrap();
            let mut data = vec![0xa5; length as usize];
            let moved = match writes {
                true => write_all(&region, span, &data),
                false => read_all(&region, span, &mut data),
            };
            let may = |page: &Entry| match writes {
                true => *page == Entry::Writable,
                false => *page != Entry::Empty,
            };
            let page = |byte: u64| (byte / PAGE_SIZE) as usize;
            let all = (start..start + length).all(|byte| may(&process[page(byte)]));
            prop_assert_eq!(moved.is_ok(), all);
            for (byte, (old, new)) in before.iter().zip(region.lock().flat()).enumerate() {
                let hit = (start..start + length).contains(&(byte as u64));
                let written = writes && hit && may(&process[byte / PAGE]);
                prop_assert!(*old == new || written && new == 0xa5);
            }
        }
    }

    #[test]
    fn faults_only_what_is_not_there() {
        let base = 5 * PAGE_SIZE;
        let mut memory = Memory::new(base);
        memory.list[1] = Entry::Writable;
        let region = Region(RefCell::new(memory));
        let span = Window::ALL
            .locate(base + PAGE_SIZE + 100, PAGE_SIZE)
            .unwrap();
        write_all(&region, span, &[1; PAGE]).unwrap();
        let rest = Window::ALL.locate(base + 2 * PAGE_SIZE, 100).unwrap();
        assert_eq!(region.lock().faults, [rest]);
        write_all(&region, span, &[2; PAGE]).unwrap();
        assert_eq!(region.lock().faults, [rest]);
    }

    #[test]
    fn looks_ahead_when_it_goes_from_page_to_page() {
        let mut memory = Memory::new(64 * PAGE_SIZE);
        memory.touched = [Entry::ReadOnly; PAGES];
        memory.touched[5] = Entry::Empty;
        let region = Region(RefCell::new(memory));
        let page = |n: u64| Window::ALL.locate((64 + n) * PAGE_SIZE, 1).unwrap();
        // A page on its own is all that is asked for.
        read_all(&region, page(4), &mut [0]).unwrap();
        assert_eq!(region.lock().snapshots, []);
        region.lock().list[4] = Entry::Empty;
        region.lock().faults.clear();
        for n in 0..6 {
            read_all(&region, page(n), &mut [0]).unwrap();
        }
        let two = |n: u64| {
            Window::ALL
                .locate((64 + n) * PAGE_SIZE, 2 * PAGE_SIZE)
                .unwrap()
        };
        assert_eq!(region.lock().snapshots, [two(2), two(4)]);
        assert_eq!(region.lock().faults, [page(0), page(1), page(5)]);
        write_all(&region, page(2), &[0]).unwrap();
        assert_eq!(region.lock().faults.last(), Some(&page(2)));
        assert_eq!(region.lock().snapshots.len(), 2);
    }

    #[test]
    fn tries_again_what_was_disturbed() {
        let mut memory = Memory::new(0);
        memory.busy = 2;
        let region = Region(RefCell::new(memory));
        let span = Window::ALL.locate(0, 1).unwrap();
        assert_eq!(read_all(&region, span, &mut [0]), Ok(()));
        assert_eq!(region.lock().faults.len(), 3);
    }

    #[test]
    fn gives_up_if_faults_get_nothing() {
        let mut memory = Memory::new(0);
        memory.at_once = 0;
        let region = Region(RefCell::new(memory));
        let span = Window::ALL.locate(0, 1).unwrap();
        assert_eq!(read_all(&region, span, &mut [0]), Err(EFAULT));
        assert_eq!(region.lock().faults.len(), MAX_TRIES as usize);
    }

    #[test]
    fn nothing_is_before_the_list() {
        let region = Region(RefCell::new(Memory::new(2 * PAGE_SIZE)));
        let span = Window::ALL.locate(PAGE_SIZE, 1).unwrap();
        assert_eq!(read(&region.lock(), span, &mut [0]), 0);
    }
}
