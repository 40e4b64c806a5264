// SPDX-License-Identifier: GPL-2.0

//! Rust MMU mirror sample: a device that loads bytes from the memory of the process that opened it.
//! It has a TLB of one page, which page faults of the device fill and invalidations empty.

use kernel::miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration};
use kernel::{fs::File, ioctl::_IO, page::PAGE_SIZE, prelude::*, sync::Arc};
use mmu_notifier_helpers::fault::{Access, Buffer, Request};
use mmu_notifier_helpers::invlock::Publish;
use mmu_notifier_helpers::mirror::{Mirror, Subscription};
use mmu_notifier_helpers::notifier::{Attachment, PerMm};
use mmu_notifier_helpers::pages::{Entry, Faulted, PageState};
use mmu_notifier_helpers::range::{Invalidation, PageRange};

module! {
    type: MmuMirrorModule,
    name: "rust_mmu_mirror",
    authors: ["mmu_notifier_helpers maintainers"],
    description: "Rust MMU mirror sample",
    license: "GPL",
}

struct MmuMirrorModule(#[expect(dead_code)] Pin<KBox<MiscDeviceRegistration<OpenFile>>>);

impl kernel::Module for MmuMirrorModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let name = c"rust-mmu-mirror";
        let node = MiscDeviceRegistration::register(MiscDeviceOptions { name });
        Ok(Self(KBox::try_pin_init(node, GFP_KERNEL)?))
    }
}

/// The shadow. It is made for an [`Attachment`] alone, so whoever borrows it holds its lock.
struct Tlb(Option<(PageRange, Entry)>);

impl Tlb {
    /// Copies `page`, unless the TLB misses.
    fn load(&self, page: PageRange, data: &mut [u8; PAGE_SIZE]) -> Result {
        let hit = self.0.as_ref().filter(|(cached, _)| *cached == page);
        let (_, entry) = hit.ok_or(EFAULT)?;
        // SAFETY: The entry is in a shadow, whose lock is held, and no request had an owner.
        unsafe { entry.copy_to(0, core::slice::from_mut(data)) };
        Ok(())
    }
}

// SAFETY: Neither sleeps nor allocates; the entry goes into the TLB, nobody else puts one there.
unsafe impl Publish<Faulted<'_, ()>> for Tlb {
    type Output = Result;
    fn publish(&mut self, Faulted { pages, .. }: Faulted<'_, ()>) -> Result {
        let page = *pages.range();
        if let Some((_addr, PageState::Mapped(entry))) = pages.entries().next() {
            self.0 = Some((page, entry));
        }
        Ok(())
    }
}

struct TlbMirror;
// SAFETY: Drops the entry if it is in the range; the device has no other cache. It does not sleep.
unsafe impl Mirror for TlbMirror {
    type Shadow = Tlb;
    type Reserve = ();
    fn zap(&self, tlb: &mut Tlb, lost: &Invalidation) {
        tlb.0.take_if(|(page, _)| page.overlaps(lost.range()));
    }
}
mmu_notifier_helpers::per_mm_mirror!(TlbMirror, "rust_mmu_mirror");

/// Returns the byte at the address that is the argument.
const RUST_MMU_MIRROR_LOAD: u32 = _IO('|' as u32, 0x90);

struct OpenFile(Attachment<TlbMirror>);

#[vtable]
impl MiscDevice for OpenFile {
    type Ptr = Pin<KBox<Self>>;
    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let per_mm = PerMm::get(kernel::current!().mm().ok_or(EINVAL)?)?;
        let attachment = Attachment::new(per_mm, Arc::new(TlbMirror, GFP_KERNEL)?, Tlb(None))?;
        Ok(KBox::pin(Self(attachment), GFP_KERNEL)?)
    }

    fn ioctl(this: Pin<&Self>, _file: &File, cmd: u32, addr: usize) -> Result<isize> {
        if cmd != RUST_MMU_MIRROR_LOAD {
            return Err(ENOTTY);
        }
        let page = PageRange::covering(addr, addr.saturating_add(1)).ok_or(EINVAL)?;
        let mut data = KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        if this.0.lock().load(page, &mut data).is_err() {
            let mm = this.0.mm().mmget_not_zero().ok_or(ESRCH)?;
            let mut buffer = Buffer::new(1, GFP_KERNEL)?;
            let request = Request::droppable(page, Access::Read);
            let tlb = this.0.fault(&mm, &request, &mut buffer, &mut ())?;
            tlb.load(page, &mut data)?;
        }
        Ok(data[addr % PAGE_SIZE].into())
    }
}
