// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * KUnit tests of ib_umem_odp: what drivers do with it, for a device that maps pages for DMA and for
 * one whose data the CPU moves. The devices do not exist; the memory is that of the test's thread.
 */

#include <kunit/resource.h>
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/device/faux.h>
#include <linux/dma-mapping.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hmm.h>
#include <linux/hmm-dma.h>
#include <linux/hugetlb.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pci-p2pdma.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/uaccess.h>

#include <net/net_namespace.h>
#include <rdma/ib_umem_odp.h>
#include <rdma/ib_verbs.h>

#define READ_ONLY IB_ACCESS_ON_DEMAND
#define READ_WRITE (IB_ACCESS_ON_DEMAND | IB_ACCESS_LOCAL_WRITE)

/* How often to look for what comes from another thread, every 20 ms. */
#define LOOKS 500

/* The devices of a test. */
struct odp_devices {
	struct ib_device *dma;
	struct ib_device *virt;
};

/* What a driver has beside a region. */
struct odp_mr {
	int invalidations;
};

KUNIT_DEFINE_ACTION_WRAPPER(destroy_faux, faux_device_destroy, struct faux_device *);
KUNIT_DEFINE_ACTION_WRAPPER(dealloc_device, ib_dealloc_device, struct ib_device *);
KUNIT_DEFINE_ACTION_WRAPPER(release_umem, ib_umem_odp_release, struct ib_umem_odp *);
KUNIT_DEFINE_ACTION_WRAPPER(put_file, fput, struct file *);
KUNIT_DEFINE_ACTION_WRAPPER(unmount, kern_unmount, struct vfsmount *);

/* The one of a test that reaches addresses of @bits bits; for 0, that nobody has set up for DMA. */
static struct device *new_dma_device(struct kunit *test, unsigned int bits)
{
	struct faux_device *faux;
	struct device *dev;
	char name[32];

	snprintf(name, sizeof(name), "ib_odp_kunit_%u", bits);
	faux = faux_device_create(name, NULL, NULL);
	KUNIT_ASSERT_NOT_NULL(test, faux);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, destroy_faux, faux), 0);
	dev = &faux->dev;
	if (bits) {
		dev->dma_mask = &dev->coherent_dma_mask;
		KUNIT_ASSERT_EQ(test, dma_set_mask_and_coherent(dev, DMA_BIT_MASK(bits)), 0);
	}
	return dev;
}

static struct ib_device *new_device(struct kunit *test, struct device *dma_device)
{
	struct ib_device *device = _ib_alloc_device(sizeof(*device), &init_net);

	KUNIT_ASSERT_NOT_NULL(test, device);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, dealloc_device, device), 0);
	device->dma_device = dma_device;
	return device;
}

static int odp_init(struct kunit *test)
{
	struct odp_devices *devices = kunit_kzalloc(test, sizeof(*devices), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, devices);
	devices->dma = new_device(test, new_dma_device(test, 64));
	if (IS_ENABLED(CONFIG_INFINIBAND_VIRT_DMA))
		devices->virt = new_device(test, NULL);
	test->priv = devices;
	return 0;
}

static struct ib_device *dma_device(struct kunit *test)
{
	return ((struct odp_devices *)test->priv)->dma;
}

static struct ib_device *virt_device(struct kunit *test)
{
	struct ib_device *device = ((struct odp_devices *)test->priv)->virt;

	if (!device)
		kunit_skip(test, "no device can have the CPU move its data");
	return device;
}

static bool odp_invalidate(struct mmu_interval_notifier *mni,
			   const struct mmu_notifier_range *range, unsigned long cur_seq)
{
	struct ib_umem_odp *umem = container_of(mni, struct ib_umem_odp, notifier);
	struct odp_mr *mr;

	if (!mmu_notifier_range_blockable(range))
		return false;
	mutex_lock(&umem->umem_mutex);
	mmu_interval_set_seq(mni, cur_seq);
	mr = umem->private;
	if (mr)
		mr->invalidations++;
	ib_umem_odp_unmap_dma_pages(umem, max(ib_umem_start(umem), range->start),
				    min(ib_umem_end(umem), range->end));
	mutex_unlock(&umem->umem_mutex);
	return true;
}

static const struct mmu_interval_notifier_ops odp_ops = {
	.invalidate = odp_invalidate,
};

/* Gives a region to the test, which releases it at its end or before, with release_umem. */
static struct ib_umem_odp *owned(struct kunit *test, struct ib_umem_odp *umem)
{
	struct odp_mr *mr = kunit_kzalloc(test, sizeof(*mr), GFP_KERNEL);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, umem);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, release_umem, umem), 0);
	KUNIT_ASSERT_NOT_NULL(test, mr);
	mutex_lock(&umem->umem_mutex);
	umem->private = mr;
	mutex_unlock(&umem->umem_mutex);
	return umem;
}

static struct ib_umem_odp *region(struct kunit *test, struct ib_device *device,
				  unsigned long addr, size_t size, int access)
{
	return owned(test, ib_umem_odp_get(device, addr, size, access, &odp_ops));
}

static int invalidations(struct ib_umem_odp *umem)
{
	return ((struct odp_mr *)umem->private)->invalidations;
}

/* The addresses in physical memory are those of the bus unless something is between them. */
static bool is_direct(struct ib_umem_odp *umem)
{
	return !dma_use_iova(&umem->map.state) && !dma_need_unmap(umem->umem.ibdev->dma_device);
}

/* Maps what is in the list, as a driver does for the page table of its device. */
static void populate(struct kunit *test, struct ib_umem_odp *umem, size_t first, size_t pages)
{
	struct device *dev = umem->umem.ibdev->dma_device;
	struct pci_p2pdma_map_state p2pdma_state = {};
	size_t i;

	for (i = first; i < first + pages; i++) {
		unsigned long pfn = umem->map.pfn_list[i];
		dma_addr_t dma;

		if (!(pfn & HMM_PFN_VALID))
			continue;
		dma = hmm_dma_map_pfn(dev, &umem->map, i, &p2pdma_state);
		KUNIT_EXPECT_EQ(test, dma_mapping_error(dev, dma), 0);
		if (is_direct(umem))
			KUNIT_EXPECT_EQ(test, dma, hmm_pfn_to_phys(pfn));
		if (!(pfn & HMM_PFN_DMA_MAPPED))
			umem->npages++;
	}
}

/* What a device wants of the pages. */
enum want { TO_LOOK, TO_READ, TO_WRITE };

/* A page fault of the device. */
static int fault(struct kunit *test, struct ib_umem_odp *umem, unsigned long addr, size_t bytes,
		 enum want want)
{
	u64 access_mask = want == TO_WRITE ? HMM_PFN_WRITE : 0;
	int pages = ib_umem_odp_map_dma_and_lock(umem, addr, bytes, access_mask, want != TO_LOOK);

	if (pages < 0)
		return pages;
	KUNIT_EXPECT_TRUE(test, mutex_is_locked(&umem->umem_mutex));
	if (umem->umem.ibdev->dma_device)
		populate(test, umem, (addr - ib_umem_start(umem)) >> umem->page_shift, pages);
	mutex_unlock(&umem->umem_mutex);
	return pages;
}

static int fault_all(struct kunit *test, struct ib_umem_odp *umem, enum want want)
{
	return fault(test, umem, ib_umem_start(umem), ib_umem_end(umem) - ib_umem_start(umem),
		     want);
}

static void unmap_dma(struct ib_umem_odp *umem, u64 start, u64 end)
{
	mutex_lock(&umem->umem_mutex);
	ib_umem_odp_unmap_dma_pages(umem, start, end);
	mutex_unlock(&umem->umem_mutex);
}

static unsigned long entry(struct ib_umem_odp *umem, size_t index)
{
	guard(mutex)(&umem->umem_mutex);
	return umem->map.pfn_list[index];
}

static bool is_valid(struct ib_umem_odp *umem, size_t index)
{
	return entry(umem, index) & HMM_PFN_VALID;
}

static bool is_writable(struct ib_umem_odp *umem, size_t index)
{
	return entry(umem, index) & HMM_PFN_WRITE;
}

static struct folio *folio_of(struct ib_umem_odp *umem, size_t index)
{
	return page_folio(hmm_pfn_to_page(entry(umem, index)));
}

/*
 * Expects the pages in the list that @pages has an 'x' for, and no other. They are mapped for DMA
 * if the device is one for it, and counted.
 */
static void expect_pages(struct kunit *test, struct ib_umem_odp *umem, const char *pages)
{
	bool is_dma = umem->umem.ibdev->dma_device;
	int mapped = 0;
	size_t i;

	KUNIT_ASSERT_EQ(test, strlen(pages), ib_umem_odp_num_pages(umem));
	for (i = 0; pages[i]; i++) {
		bool wanted = pages[i] == 'x';

		KUNIT_EXPECT_EQ_MSG(test, is_valid(umem, i), wanted, "page %zu", i);
		KUNIT_EXPECT_EQ_MSG(test, !!(entry(umem, i) & HMM_PFN_DMA_MAPPED),
				    wanted && is_dma, "page %zu", i);
		mapped += wanted && is_dma;
	}
	KUNIT_EXPECT_EQ(test, umem->npages, mapped);
	KUNIT_EXPECT_FALSE(test, mutex_is_locked(&umem->umem_mutex));
}

/* Memory of @pages pages, which are not there before they are used. */
static unsigned long memory(struct kunit *test, size_t pages, unsigned long prot)
{
	unsigned long addr = kunit_vm_mmap(test, NULL, 0, pages * PAGE_SIZE, prot,
					   MAP_PRIVATE | MAP_ANONYMOUS, 0);

	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));
	return addr;
}

static unsigned long map_file(struct kunit *test, struct file *file, size_t size,
			      unsigned long prot)
{
	unsigned long addr = kunit_vm_mmap(test, file, 0, size, prot, MAP_SHARED, 0);

	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));
	return addr;
}

static struct file *shared_file(struct kunit *test, size_t size)
{
	struct file *file = shmem_file_setup("ib_odp_kunit", size, EMPTY_VMA_FLAGS);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, put_file, file), 0);
	return file;
}

static void put_byte(struct kunit *test, unsigned long addr, u8 byte)
{
	KUNIT_ASSERT_EQ(test, put_user(byte, (u8 __user *)addr), 0);
}

static u8 get_byte(struct kunit *test, unsigned long addr)
{
	u8 byte = 0;

	KUNIT_ASSERT_EQ(test, get_user(byte, (u8 __user *)addr), 0);
	return byte;
}

/* The device writes to the first byte of a page. */
static void device_write(struct kunit *test, struct ib_umem_odp *umem, size_t index, u8 byte)
{
	unsigned long pfn;

	guard(mutex)(&umem->umem_mutex);
	pfn = umem->map.pfn_list[index];
	KUNIT_EXPECT_TRUE(test, pfn & HMM_PFN_WRITE);
	if (pfn & HMM_PFN_WRITE)
		*(u8 *)page_address(hmm_pfn_to_page(pfn)) = byte;
}

/* Has the thread use an address space of its own, which it has to leave. */
static struct mm_struct *use_new_mm(struct kunit *test)
{
	struct mm_struct *mm = mm_alloc();

	KUNIT_ASSERT_NOT_NULL(test, mm);
	mm->task_size = TASK_SIZE;
	arch_pick_mmap_layout(mm, &current->signal->rlim[RLIMIT_STACK]);
	kthread_use_mm(mm);
	return mm;
}

static void drop_mm(struct mm_struct *mm)
{
	kthread_unuse_mm(mm);
	mmput(mm);
}

static void region_is_of_whole_pages(struct kunit *test)
{
	unsigned long addr = memory(test, 4, PROT_READ | PROT_WRITE);
	struct ib_device *device = dma_device(test);
	struct ib_umem_odp *umem;

	umem = region(test, device, addr + PAGE_SIZE + 100, 2 * PAGE_SIZE - 200, READ_WRITE);
	KUNIT_EXPECT_EQ(test, ib_umem_start(umem), addr + PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, ib_umem_end(umem), addr + 3 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, ib_umem_odp_num_pages(umem), 2);
	KUNIT_EXPECT_EQ(test, umem->umem.address, addr + PAGE_SIZE + 100);
	KUNIT_EXPECT_EQ(test, umem->umem.length, 2 * PAGE_SIZE - 200);
	KUNIT_EXPECT_EQ(test, umem->page_shift, PAGE_SHIFT);
	KUNIT_EXPECT_PTR_EQ(test, umem->umem.ibdev, device);
	KUNIT_EXPECT_PTR_EQ(test, umem->umem.owning_mm, current->mm);
	KUNIT_EXPECT_PTR_EQ(test, umem->tgid, task_tgid(current));
	KUNIT_EXPECT_TRUE(test, umem->umem.is_odp);
	KUNIT_EXPECT_TRUE(test, umem->umem.writable);
	KUNIT_EXPECT_FALSE(test, umem->is_implicit_odp);
	expect_pages(test, umem, "..");

	umem = region(test, device, addr, PAGE_SIZE, READ_ONLY);
	KUNIT_EXPECT_FALSE(test, umem->umem.writable);
	umem = region(test, device, addr, PAGE_SIZE, READ_ONLY | IB_ACCESS_REMOTE_ATOMIC);
	KUNIT_EXPECT_TRUE(test, umem->umem.writable);
}

static void check_mapped(struct kunit *test, struct ib_device *device)
{
	unsigned long addr = memory(test, 4, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, device, addr, 4 * PAGE_SIZE, READ_WRITE);
	size_t i;

	put_byte(test, addr + PAGE_SIZE, 1);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 4);
	expect_pages(test, umem, "xxxx");
	for (i = 0; i < 4; i++) {
		device_write(test, umem, i, 10 + i);
		KUNIT_EXPECT_EQ(test, get_byte(test, addr + i * PAGE_SIZE), 10 + i);
	}
	KUNIT_EXPECT_EQ(test, invalidations(umem), 0);
	/* What is there is there already. */
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_READ), 4);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 4);
	expect_pages(test, umem, "xxxx");
}

static void pages_are_mapped_for_dma(struct kunit *test)
{
	check_mapped(test, dma_device(test));
}

static void pages_are_listed_for_the_cpu(struct kunit *test)
{
	check_mapped(test, virt_device(test));
}

static void only_what_is_wanted_is_mapped(struct kunit *test)
{
	unsigned long addr = memory(test, 8, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, 8 * PAGE_SIZE,
					  READ_WRITE);

	KUNIT_EXPECT_EQ(test, fault(test, umem, addr + 2 * PAGE_SIZE - 1, 2, TO_WRITE), 2);
	expect_pages(test, umem, ".xx.....");
	KUNIT_EXPECT_EQ(test, fault(test, umem, addr + 8 * PAGE_SIZE - 1, 1, TO_WRITE), 1);
	expect_pages(test, umem, ".xx....x");
	KUNIT_EXPECT_EQ(test, fault(test, umem, addr + 2 * PAGE_SIZE, 3 * PAGE_SIZE, TO_WRITE), 3);
	expect_pages(test, umem, ".xxxx..x");
}

static void many_pages(struct kunit *test)
{
	const size_t pages = 1200;
	unsigned long addr = memory(test, pages, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, pages * PAGE_SIZE,
					  READ_WRITE);
	size_t i;

	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), pages);
	KUNIT_EXPECT_EQ(test, umem->npages, pages);
	for (i = 0; i < pages; i++)
		device_write(test, umem, i, i);
	for (i = 0; i < pages; i++)
		KUNIT_ASSERT_EQ(test, get_byte(test, addr + i * PAGE_SIZE), (u8)i);
	KUNIT_EXPECT_EQ(test, vm_munmap(addr + PAGE_SIZE, (pages - 2) * PAGE_SIZE), 0);
	KUNIT_EXPECT_EQ(test, umem->npages, 2);
	for (i = 1; i < pages - 1; i++)
		KUNIT_ASSERT_FALSE(test, is_valid(umem, i));
	KUNIT_EXPECT_EQ(test, vm_munmap(addr, pages * PAGE_SIZE), 0);
	KUNIT_EXPECT_EQ(test, umem->npages, 0);
}

static void check_munmap(struct kunit *test, struct ib_device *device)
{
	unsigned long addr = memory(test, 6, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, device, addr, 6 * PAGE_SIZE, READ_WRITE);
	unsigned long hole = addr + 2 * PAGE_SIZE;

	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 6);
	KUNIT_EXPECT_EQ(test, vm_munmap(hole, 2 * PAGE_SIZE), 0);
	KUNIT_EXPECT_GE(test, invalidations(umem), 1);
	expect_pages(test, umem, "xx..xx");
	KUNIT_EXPECT_EQ(test, fault(test, umem, hole, 1, TO_READ), -EFAULT);
	KUNIT_EXPECT_EQ(test, fault(test, umem, hole + 2 * PAGE_SIZE - 1, 1, TO_WRITE), -EFAULT);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), -EFAULT);
	expect_pages(test, umem, "xx..xx");
	KUNIT_EXPECT_EQ(test, fault(test, umem, addr, 2 * PAGE_SIZE, TO_WRITE), 2);

	KUNIT_ASSERT_EQ(test, vm_mmap(NULL, hole, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0), hole);
	put_byte(test, hole, 7);
	KUNIT_EXPECT_EQ(test, fault(test, umem, hole, 2 * PAGE_SIZE, TO_WRITE), 2);
	expect_pages(test, umem, "xxxxxx");
	device_write(test, umem, 2, 8);
	KUNIT_EXPECT_EQ(test, get_byte(test, hole), 8);
}

static void munmap_takes_pages_from_dma(struct kunit *test)
{
	check_munmap(test, dma_device(test));
}

static void munmap_takes_pages_from_the_cpu(struct kunit *test)
{
	check_munmap(test, virt_device(test));
}

static void what_was_zapped_comes_back(struct kunit *test)
{
	struct file *file = shared_file(test, 4 * PAGE_SIZE);
	unsigned long addr = map_file(test, file, 4 * PAGE_SIZE, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, 4 * PAGE_SIZE,
					  READ_WRITE);
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 4);
	device_write(test, umem, 1, 11);
	device_write(test, umem, 3, 13);
	folio = folio_of(umem, 1);
	unmap_mapping_range(file->f_mapping, PAGE_SIZE, 2 * PAGE_SIZE, 1);
	expect_pages(test, umem, "x..x");
	KUNIT_EXPECT_EQ(test, fault(test, umem, addr + PAGE_SIZE, PAGE_SIZE, TO_READ), 1);
	expect_pages(test, umem, "xx.x");
	KUNIT_EXPECT_PTR_EQ(test, folio_of(umem, 1), folio);
	KUNIT_EXPECT_EQ(test, get_byte(test, addr + PAGE_SIZE), 11);
	unmap_mapping_range(file->f_mapping, 0, 0, 1);
	expect_pages(test, umem, "....");
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 4);
	expect_pages(test, umem, "xxxx");
	KUNIT_EXPECT_EQ(test, get_byte(test, addr + 3 * PAGE_SIZE), 13);
}

static void another_page_takes_the_place(struct kunit *test)
{
	unsigned long addr = memory(test, 1, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, PAGE_SIZE, READ_WRITE);
	struct folio *zeroes;

	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_READ), 1);
	expect_pages(test, umem, "x");
	KUNIT_EXPECT_FALSE(test, is_writable(umem, 0));
	zeroes = folio_of(umem, 0);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 1);
	expect_pages(test, umem, "x");
	KUNIT_EXPECT_TRUE(test, is_writable(umem, 0));
	KUNIT_EXPECT_PTR_NE(test, folio_of(umem, 0), zeroes);
}

static void unmapping_is_of_the_range(struct kunit *test)
{
	unsigned long addr = memory(test, 6, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, 6 * PAGE_SIZE,
					  READ_WRITE);

	/* Nothing is mapped yet. */
	unmap_dma(umem, 0, U64_MAX);
	expect_pages(test, umem, "......");
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 6);
	unmap_dma(umem, addr + PAGE_SIZE, addr + PAGE_SIZE);
	unmap_dma(umem, addr + 3 * PAGE_SIZE, addr + PAGE_SIZE);
	unmap_dma(umem, 0, addr);
	unmap_dma(umem, addr + 6 * PAGE_SIZE, U64_MAX);
	expect_pages(test, umem, "xxxxxx");
	unmap_dma(umem, addr + PAGE_SIZE, addr + 3 * PAGE_SIZE);
	expect_pages(test, umem, "x..xxx");
	unmap_dma(umem, addr, addr + 4 * PAGE_SIZE);
	expect_pages(test, umem, "....xx");
	unmap_dma(umem, 0, U64_MAX);
	unmap_dma(umem, 0, U64_MAX);
	expect_pages(test, umem, "......");
	KUNIT_EXPECT_EQ(test, invalidations(umem), 0);
}

static void unmapping_takes_pages_with_any_byte(struct kunit *test)
{
	unsigned long addr = memory(test, 4, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, 4 * PAGE_SIZE,
					  READ_WRITE);

	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 4);
	unmap_dma(umem, addr + PAGE_SIZE - 1, addr + 2 * PAGE_SIZE + 1);
	expect_pages(test, umem, "...x");
}

static void written_pages_are_dirty(struct kunit *test)
{
	unsigned long addr = memory(test, 4, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, 4 * PAGE_SIZE,
					  READ_WRITE);
	struct folio *folios[4];
	size_t i;

	KUNIT_ASSERT_EQ(test, fault(test, umem, addr, 3 * PAGE_SIZE, TO_WRITE), 3);
	/* In the list, and not mapped for the device. */
	KUNIT_ASSERT_EQ(test, ib_umem_odp_map_dma_and_lock(umem, addr + 3 * PAGE_SIZE, 1,
							   HMM_PFN_WRITE, true), 1);
	mutex_unlock(&umem->umem_mutex);
	for (i = 0; i < 4; i++) {
		folios[i] = folio_of(umem, i);
		folio_get(folios[i]);
		KUNIT_EXPECT_FALSE(test, folio_test_dirty(folios[i]));
	}
	unmap_dma(umem, addr, addr + PAGE_SIZE);
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(folios[0]));
	KUNIT_EXPECT_FALSE(test, folio_test_dirty(folios[1]));
	KUNIT_EXPECT_EQ(test, vm_munmap(addr + PAGE_SIZE, PAGE_SIZE), 0);
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(folios[1]));
	kunit_release_action(test, release_umem, umem);
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(folios[2]));
	KUNIT_EXPECT_FALSE(test, folio_test_dirty(folios[3]));
	for (i = 0; i < 4; i++)
		folio_put(folios[i]);
}

static void what_the_cpu_wrote_is_dirty(struct kunit *test)
{
	struct ib_device *device = virt_device(test);
	unsigned long addr = memory(test, 1, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, device, addr, PAGE_SIZE, READ_WRITE);
	struct folio *folio;

	KUNIT_ASSERT_EQ(test, fault_all(test, umem, TO_WRITE), 1);
	folio = folio_of(umem, 0);
	folio_get(folio);
	KUNIT_EXPECT_FALSE(test, folio_test_dirty(folio));
	unmap_dma(umem, 0, U64_MAX);
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(folio));
	folio_put(folio);
}

static void read_pages_stay_clean(struct kunit *test)
{
	struct file *file = shared_file(test, PAGE_SIZE);
	unsigned long addr = map_file(test, file, PAGE_SIZE, PROT_READ);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, PAGE_SIZE, READ_ONLY);
	struct folio *folio;

	KUNIT_ASSERT_EQ(test, fault_all(test, umem, TO_READ), 1);
	expect_pages(test, umem, "x");
	KUNIT_EXPECT_FALSE(test, is_writable(umem, 0));
	folio = folio_of(umem, 0);
	folio_get(folio);
	KUNIT_EXPECT_FALSE(test, folio_test_dirty(folio));
	KUNIT_EXPECT_EQ(test, vm_munmap(addr, PAGE_SIZE), 0);
	expect_pages(test, umem, ".");
	KUNIT_EXPECT_FALSE(test, folio_test_dirty(folio));
	folio_put(folio);
}

static void check_protection(struct kunit *test, struct ib_device *device)
{
	unsigned long addr = memory(test, 2, PROT_READ);
	struct ib_umem_odp *umem = region(test, device, addr, 2 * PAGE_SIZE, READ_WRITE);

	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), -EPERM);
	expect_pages(test, umem, "..");
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_READ), 2);
	expect_pages(test, umem, "xx");
	KUNIT_EXPECT_FALSE(test, is_writable(umem, 0));
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), -EPERM);
	expect_pages(test, umem, "xx");

	addr = memory(test, 2, PROT_NONE);
	umem = region(test, device, addr, 2 * PAGE_SIZE, READ_WRITE);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_READ), -EFAULT);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), -EFAULT);
	expect_pages(test, umem, "..");
}

static void protection_holds_for_dma(struct kunit *test)
{
	check_protection(test, dma_device(test));
}

static void protection_holds_for_the_cpu(struct kunit *test)
{
	check_protection(test, virt_device(test));
}

static void addresses_outside_are_refused(struct kunit *test)
{
	unsigned long addr = memory(test, 4, PROT_READ | PROT_WRITE);
	unsigned long start = addr + PAGE_SIZE, end = addr + 3 * PAGE_SIZE;
	struct ib_umem_odp *umem = region(test, dma_device(test), start, 2 * PAGE_SIZE,
					  READ_WRITE);

	KUNIT_EXPECT_EQ(test, fault(test, umem, start - 1, 1, TO_READ), -EFAULT);
	KUNIT_EXPECT_EQ(test, fault(test, umem, start - 1, 2, TO_READ), -EFAULT);
	KUNIT_EXPECT_EQ(test, fault(test, umem, end - 1, 2, TO_READ), -EFAULT);
	KUNIT_EXPECT_EQ(test, fault(test, umem, end, 1, TO_READ), -EFAULT);
	KUNIT_EXPECT_EQ(test, fault(test, umem, 0, 1, TO_READ), -EFAULT);
	KUNIT_EXPECT_EQ(test, fault(test, umem, addr, 4 * PAGE_SIZE, TO_LOOK), -EFAULT);
	KUNIT_EXPECT_EQ(test, fault(test, umem, start, 0, TO_READ), -EINVAL);
	expect_pages(test, umem, "..");
}

static void lengths_that_overflow_are_refused(struct kunit *test)
{
	unsigned long addr = memory(test, 2, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, 2 * PAGE_SIZE,
					  READ_WRITE);

	KUNIT_EXPECT_EQ(test, fault(test, umem, addr, SIZE_MAX, TO_WRITE), -EFAULT);
	KUNIT_EXPECT_EQ(test, fault(test, umem, addr + PAGE_SIZE, -PAGE_SIZE, TO_WRITE), -EFAULT);
	expect_pages(test, umem, "..");
}

static void check_look(struct kunit *test, struct ib_device *device)
{
	unsigned long addr = memory(test, 4, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, device, addr, 4 * PAGE_SIZE, READ_WRITE);

	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_LOOK), 4);
	expect_pages(test, umem, "....");
	put_byte(test, addr + PAGE_SIZE, 1);
	KUNIT_EXPECT_EQ(test, fault(test, umem, addr, PAGE_SIZE, TO_LOOK), 1);
	expect_pages(test, umem, "....");
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_LOOK), 4);
	expect_pages(test, umem, ".x..");
	KUNIT_EXPECT_EQ(test, fault(test, umem, addr + 3 * PAGE_SIZE, 1, TO_WRITE), 1);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_LOOK), 4);
	expect_pages(test, umem, ".x.x");
	/* Nor does it mind what can not be faulted in. */
	KUNIT_EXPECT_EQ(test, vm_munmap(addr, PAGE_SIZE), 0);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_LOOK), 4);
	expect_pages(test, umem, ".x.x");
}

static void looking_faults_nothing_in_for_dma(struct kunit *test)
{
	check_look(test, dma_device(test));
}

static void looking_faults_nothing_in_for_the_cpu(struct kunit *test)
{
	check_look(test, virt_device(test));
}

/* @size bytes at a multiple of a huge page, in memory that has room for them. */
static unsigned long aligned(struct kunit *test, size_t size)
{
	return ALIGN(memory(test, (size + HPAGE_SIZE) / PAGE_SIZE, PROT_READ | PROT_WRITE),
		     HPAGE_SIZE);
}

static struct file *huge_file(struct kunit *test, size_t size)
{
	struct file_system_type *type = get_fs_type("hugetlbfs");
	struct vfsmount *mnt;
	struct path root;
	struct file *file;

	if (!type)
		kunit_skip(test, "no hugetlbfs");
	mnt = kern_mount(type);
	module_put(type->owner);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, mnt);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, unmount, mnt), 0);
	root = (struct path){ .mnt = mnt, .dentry = mnt->mnt_root };
	file = file_open_root(&root, "pages", O_CREAT | O_RDWR, 0600);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, put_file, file), 0);
	return file;
}

static void huge_pages_are_mapped_as_a_whole(struct kunit *test)
{
	struct file *file = huge_file(test, 2 * HPAGE_SIZE);
	unsigned long addr = kunit_vm_mmap(test, file, 0, 2 * HPAGE_SIZE, PROT_READ | PROT_WRITE,
					   MAP_SHARED, 0);
	unsigned long second = addr + HPAGE_SIZE;
	struct ib_umem_odp *umem;
	size_t i;

	if (IS_ERR_VALUE(addr))
		kunit_skip(test, "no two huge pages are reserved");
	umem = region(test, dma_device(test), addr + 1, 2 * HPAGE_SIZE - 2,
		      READ_WRITE | IB_ACCESS_HUGETLB);
	KUNIT_EXPECT_EQ(test, umem->page_shift, HPAGE_SHIFT);
	KUNIT_EXPECT_EQ(test, ib_umem_start(umem), addr);
	KUNIT_EXPECT_EQ(test, ib_umem_end(umem), addr + 2 * HPAGE_SIZE);
	KUNIT_EXPECT_EQ(test, umem->map.dma_entry_size, HPAGE_SIZE);

	KUNIT_EXPECT_EQ(test, fault(test, umem, addr + HPAGE_SIZE / 2, 1, TO_WRITE), 1);
	expect_pages(test, umem, "x.");
	KUNIT_EXPECT_EQ(test, fault(test, umem, addr + HPAGE_SIZE - 1, 2, TO_WRITE), 2);
	expect_pages(test, umem, "xx");
	for (i = 0; i < 2; i++) {
		KUNIT_EXPECT_TRUE(test, IS_ALIGNED(hmm_pfn_to_phys(entry(umem, i)), HPAGE_SIZE));
		device_write(test, umem, i, 21 + i);
		KUNIT_EXPECT_EQ(test, get_byte(test, addr + i * HPAGE_SIZE), 21 + i);
	}

	KUNIT_EXPECT_EQ(test, vm_munmap(second, HPAGE_SIZE), 0);
	expect_pages(test, umem, "x.");
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_READ), -EFAULT);
	KUNIT_ASSERT_EQ(test, vm_mmap(file, second, HPAGE_SIZE, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_FIXED, HPAGE_SIZE), second);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_READ), 2);
	expect_pages(test, umem, "xx");
	KUNIT_EXPECT_EQ(test, vm_munmap(addr, 2 * HPAGE_SIZE), 0);
	expect_pages(test, umem, "..");
}

static void small_pages_make_no_huge_one(struct kunit *test)
{
	unsigned long addr = aligned(test, HPAGE_SIZE);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, HPAGE_SIZE,
					  READ_WRITE | IB_ACCESS_HUGETLB);

	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), -EINVAL);
	KUNIT_EXPECT_EQ(test, umem->npages, 0);
	KUNIT_EXPECT_FALSE(test, mutex_is_locked(&umem->umem_mutex));
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/* As madvise(MADV_HUGEPAGE) does. */
static void use_huge_pages(struct kunit *test, unsigned long addr)
{
	struct vm_area_struct *vma;

	guard(mmap_write_lock)(current->mm);
	vma = find_vma(current->mm, addr);
	KUNIT_EXPECT_NOT_NULL(test, vma);
	if (vma)
		vm_flags_set(vma, VM_HUGEPAGE);
}

static void part_of_a_huge_page_takes_it_all(struct kunit *test)
{
	unsigned long addr = aligned(test, 2 * HPAGE_SIZE);
	unsigned long hole = addr + HPAGE_SIZE + 5 * PAGE_SIZE;
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, 2 * HPAGE_SIZE,
					  READ_WRITE | IB_ACCESS_HUGETLB);
	int pages;

	use_huge_pages(test, addr);
	pages = fault_all(test, umem, TO_WRITE);
	if (pages == -EINVAL)
		kunit_skip(test, "there are no transparent huge pages");
	KUNIT_ASSERT_EQ(test, pages, 2);
	expect_pages(test, umem, "xx");
	KUNIT_EXPECT_EQ(test, vm_munmap(hole, PAGE_SIZE), 0);
	expect_pages(test, umem, "x.");
	KUNIT_EXPECT_EQ(test, fault(test, umem, hole, 1, TO_WRITE), -EFAULT);
	KUNIT_EXPECT_EQ(test, fault(test, umem, addr, 1, TO_WRITE), 1);
	expect_pages(test, umem, "x.");
}
#endif

static void regions_that_are_refused(struct kunit *test)
{
	unsigned long addr = memory(test, 1, PROT_READ | PROT_WRITE);
	struct ib_device *device = dma_device(test);
	struct ib_umem_odp *umem;
	static const struct {
		unsigned long addr;
		size_t size;
		int access, error;
	} refused[] = {
		{ -PAGE_SIZE, PAGE_SIZE, READ_WRITE, -EOVERFLOW },
		{ -2 * PAGE_SIZE + 1, PAGE_SIZE, READ_WRITE, -EOVERFLOW },
		{ PAGE_SIZE, SIZE_MAX, READ_WRITE, -EOVERFLOW },
		{ PAGE_SIZE, 0, READ_WRITE, -EINVAL },
		/* No list is that long. */
		{ PAGE_SIZE, 1UL << 46, READ_WRITE, -ENOMEM },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		umem = ib_umem_odp_get(device, refused[i].addr, refused[i].size,
				       refused[i].access, &odp_ops);
		KUNIT_EXPECT_EQ_MSG(test, PTR_ERR(umem), refused[i].error, "region %zu", i);
	}
	kunit_warning_suppress(test) {
		umem = ib_umem_odp_get(device, addr, PAGE_SIZE, IB_ACCESS_LOCAL_WRITE, &odp_ops);
		KUNIT_EXPECT_EQ(test, PTR_ERR(umem), -EINVAL);
	}
	umem = ib_umem_odp_alloc_implicit(device, READ_WRITE | IB_ACCESS_HUGETLB);
	KUNIT_EXPECT_EQ(test, PTR_ERR(umem), -EINVAL);
}

static void devices_that_need_bounce_buffers_are_refused(struct kunit *test)
{
	unsigned long addr = memory(test, 1, PROT_READ | PROT_WRITE);
	static const unsigned int bits[] = { 0, 24 };
	struct ib_umem_odp *umem;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bits); i++) {
		struct ib_device *device = new_device(test, new_dma_device(test, bits[i]));

		umem = ib_umem_odp_get(device, addr, PAGE_SIZE, READ_WRITE, &odp_ops);
		KUNIT_EXPECT_EQ(test, PTR_ERR(umem), -EOPNOTSUPP);
	}
}

static struct ib_umem_odp *anchor(struct kunit *test, struct ib_device *device)
{
	return owned(test, ib_umem_odp_alloc_implicit(device, READ_WRITE));
}

static struct ib_umem_odp *child(struct kunit *test, struct ib_umem_odp *root,
				 unsigned long addr, size_t size)
{
	return owned(test, ib_umem_odp_alloc_child(root, addr, size, &odp_ops));
}

static void anchor_has_children(struct kunit *test)
{
	unsigned long addr = memory(test, 4, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *root = anchor(test, dma_device(test));
	struct ib_umem_odp *first, *second;

	KUNIT_EXPECT_TRUE(test, root->is_implicit_odp);
	KUNIT_EXPECT_TRUE(test, root->umem.is_odp);
	KUNIT_EXPECT_TRUE(test, root->umem.writable);
	KUNIT_EXPECT_EQ(test, root->umem.length, 0);
	KUNIT_EXPECT_EQ(test, root->page_shift, PAGE_SHIFT);
	KUNIT_EXPECT_PTR_EQ(test, root->umem.owning_mm, current->mm);
	KUNIT_EXPECT_PTR_EQ(test, root->tgid, task_tgid(current));
	KUNIT_EXPECT_EQ(test, fault(test, root, addr, PAGE_SIZE, TO_READ), -EFAULT);

	first = child(test, root, addr, 2 * PAGE_SIZE);
	second = child(test, root, addr + 2 * PAGE_SIZE, 2 * PAGE_SIZE);
	KUNIT_EXPECT_FALSE(test, first->is_implicit_odp);
	KUNIT_EXPECT_TRUE(test, first->umem.is_odp);
	KUNIT_EXPECT_TRUE(test, first->umem.writable);
	KUNIT_EXPECT_EQ(test, ib_umem_start(second), addr + 2 * PAGE_SIZE);
	KUNIT_EXPECT_PTR_EQ(test, second->umem.ibdev, root->umem.ibdev);
	KUNIT_EXPECT_PTR_EQ(test, second->umem.owning_mm, root->umem.owning_mm);
	KUNIT_EXPECT_PTR_EQ(test, second->tgid, root->tgid);

	KUNIT_EXPECT_EQ(test, fault_all(test, first, TO_WRITE), 2);
	KUNIT_EXPECT_EQ(test, fault_all(test, second, TO_WRITE), 2);
	KUNIT_EXPECT_EQ(test, vm_munmap(addr + PAGE_SIZE, 2 * PAGE_SIZE), 0);
	expect_pages(test, first, "x.");
	expect_pages(test, second, ".x");
	KUNIT_EXPECT_EQ(test, invalidations(root), 0);

	kunit_warning_suppress(test) {
		struct ib_umem_odp *none = ib_umem_odp_alloc_child(first, addr, PAGE_SIZE,
								   &odp_ops);

		KUNIT_EXPECT_EQ(test, PTR_ERR(none), -EINVAL);
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
	}
}

static void children_go_before_and_after_their_anchor(struct kunit *test)
{
	unsigned long addr = memory(test, 4, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *root = anchor(test, dma_device(test));
	struct ib_umem_odp *before = child(test, root, addr, 2 * PAGE_SIZE);
	struct ib_umem_odp *after = child(test, root, addr, 4 * PAGE_SIZE);

	KUNIT_EXPECT_EQ(test, fault_all(test, before, TO_WRITE), 2);
	kunit_release_action(test, release_umem, before);
	before = child(test, root, addr, PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, fault_all(test, after, TO_WRITE), 4);
	kunit_release_action(test, release_umem, root);
	kunit_release_action(test, release_umem, before);
	expect_pages(test, after, "xxxx");
	KUNIT_EXPECT_EQ(test, vm_munmap(addr, PAGE_SIZE), 0);
	expect_pages(test, after, ".xxx");
	KUNIT_EXPECT_EQ(test, fault(test, after, addr + PAGE_SIZE, 1, TO_WRITE), 1);
}

static void children_are_of_the_process_of_their_anchor(struct kunit *test)
{
	unsigned long addr = memory(test, 2, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *root = anchor(test, dma_device(test));
	struct mm_struct *mm = current->mm;
	struct ib_umem_odp *umem;
	struct mm_struct *other;

	put_byte(test, addr, 31);
	kthread_unuse_mm(mm);
	other = use_new_mm(test);
	umem = ib_umem_odp_alloc_child(root, addr, 2 * PAGE_SIZE, &odp_ops);
	drop_mm(other);
	kthread_use_mm(mm);
	umem = owned(test, umem);

	KUNIT_EXPECT_PTR_EQ(test, umem->umem.owning_mm, mm);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 2);
	expect_pages(test, umem, "xx");
	KUNIT_EXPECT_EQ(test, *(u8 *)folio_address(folio_of(umem, 0)), 31);
	KUNIT_EXPECT_EQ(test, vm_munmap(addr, PAGE_SIZE), 0);
	expect_pages(test, umem, ".x");
}

static void faults_from_outside_the_process(struct kunit *test)
{
	unsigned long addr = memory(test, 2, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, 2 * PAGE_SIZE,
					  READ_WRITE);
	struct mm_struct *mm = current->mm;

	/* As of a page fault that a work item is for. */
	kthread_unuse_mm(mm);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 2);
	kthread_use_mm(mm);
	device_write(test, umem, 1, 41);
	KUNIT_EXPECT_EQ(test, get_byte(test, addr + PAGE_SIZE), 41);
}

#define REGIONS 100

static void only_regions_that_overlap_are_told(struct kunit *test)
{
	unsigned long addr = memory(test, 2 * REGIONS, PROT_READ | PROT_WRITE);
	struct ib_umem_odp **umems = kunit_kcalloc(test, REGIONS, sizeof(*umems), GFP_KERNEL);
	const size_t last = REGIONS - 1;
	size_t i;

	KUNIT_ASSERT_NOT_NULL(test, umems);
	for (i = 0; i < REGIONS; i++) {
		umems[i] = region(test, dma_device(test), addr + 2 * i * PAGE_SIZE,
				  2 * PAGE_SIZE, READ_WRITE);
		KUNIT_ASSERT_EQ(test, fault_all(test, umems[i], TO_WRITE), 2);
	}
	KUNIT_EXPECT_EQ(test, vm_munmap(addr + 85 * PAGE_SIZE, 2 * PAGE_SIZE), 0);
	for (i = 0; i < REGIONS; i++) {
		bool is_one = i == 42 || i == 43;

		KUNIT_EXPECT_EQ_MSG(test, invalidations(umems[i]), is_one, "region %zu", i);
		expect_pages(test, umems[i], i == 42 ? "x." : i == 43 ? ".x" : "xx");
	}
	/* Who has gone is not told, and who was told is told again. */
	kunit_release_action(test, release_umem, umems[last - 1]);
	KUNIT_EXPECT_EQ(test, vm_munmap(addr, 2 * REGIONS * PAGE_SIZE), 0);
	KUNIT_EXPECT_GE(test, invalidations(umems[42]), 2);
	KUNIT_EXPECT_GE(test, invalidations(umems[last]), 1);
	expect_pages(test, umems[0], "..");
	expect_pages(test, umems[43], "..");
	expect_pages(test, umems[last], "..");
}

static void regions_overlap(struct kunit *test)
{
	unsigned long addr = memory(test, 4, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *dma = region(test, dma_device(test), addr, 3 * PAGE_SIZE, READ_WRITE);
	struct ib_umem_odp *same = region(test, dma_device(test), addr, 3 * PAGE_SIZE,
					  READ_WRITE);
	struct ib_umem_odp *virt = region(test, virt_device(test), addr + PAGE_SIZE,
					  3 * PAGE_SIZE, READ_WRITE);

	KUNIT_EXPECT_EQ(test, fault_all(test, dma, TO_WRITE), 3);
	KUNIT_EXPECT_EQ(test, fault_all(test, same, TO_WRITE), 3);
	KUNIT_EXPECT_EQ(test, fault_all(test, virt, TO_WRITE), 3);
	KUNIT_EXPECT_PTR_EQ(test, folio_of(dma, 1), folio_of(same, 1));
	KUNIT_EXPECT_PTR_EQ(test, folio_of(dma, 1), folio_of(virt, 0));
	KUNIT_EXPECT_EQ(test, vm_munmap(addr + 2 * PAGE_SIZE, PAGE_SIZE), 0);
	expect_pages(test, dma, "xx.");
	expect_pages(test, same, "xx.");
	expect_pages(test, virt, "x.x");
	kunit_release_action(test, release_umem, same);
	expect_pages(test, dma, "xx.");
	expect_pages(test, virt, "x.x");
	KUNIT_EXPECT_EQ(test, vm_munmap(addr + PAGE_SIZE, 3 * PAGE_SIZE), 0);
	expect_pages(test, dma, "x..");
	expect_pages(test, virt, "...");
}

static void address_space_goes_first(struct kunit *test)
{
	struct ib_umem_odp *root, *umem, *none;
	struct mm_struct *mm = use_new_mm(test);
	unsigned long addr = vm_mmap(NULL, 0, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, 0);

	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));
	root = anchor(test, dma_device(test));
	umem = child(test, root, addr, 2 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 2);
	expect_pages(test, umem, "xx");
	/* An anchor may have none. */
	mmgrab(mm);
	drop_mm(mm);

	expect_pages(test, umem, "..");
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), -EINVAL);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_LOOK), -EINVAL);
	expect_pages(test, umem, "..");
	none = ib_umem_odp_alloc_child(root, addr, PAGE_SIZE, &odp_ops);
	KUNIT_EXPECT_EQ(test, PTR_ERR(none), -EFAULT);
	kunit_release_action(test, release_umem, umem);
	kunit_release_action(test, release_umem, root);
	mmdrop(mm);
}

/* A process that makes a region and exits. */
struct registrar {
	struct mm_struct *mm;
	struct ib_device *device;
	unsigned long addr;
	struct ib_umem_odp *umem;
	struct completion done;
};

static int make_region(void *data)
{
	struct registrar *registrar = data;

	kthread_use_mm(registrar->mm);
	registrar->umem = ib_umem_odp_get(registrar->device, registrar->addr, PAGE_SIZE,
					  READ_WRITE, &odp_ops);
	kthread_unuse_mm(registrar->mm);
	kthread_complete_and_exit(&registrar->done, 0);
}

static void process_goes_first(struct kunit *test)
{
	unsigned long addr = memory(test, 1, PROT_READ | PROT_WRITE);
	struct registrar registrar = {
		.mm = current->mm,
		.device = dma_device(test),
		.addr = addr,
		.done = COMPLETION_INITIALIZER_ONSTACK(registrar.done),
	};
	struct ib_umem_odp *umem, *ours;
	struct task_struct *task;
	int looks = LOOKS;
	int ret;

	/* Ours and the other's are of one address space. */
	ours = region(test, dma_device(test), addr, PAGE_SIZE, READ_WRITE);
	task = kthread_run(make_region, &registrar, "ib_odp_kunit");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);
	wait_for_completion(&registrar.done);
	umem = owned(test, registrar.umem);
	do {
		msleep(20);
		ret = fault_all(test, umem, TO_WRITE);
	} while (ret == 1 && looks--);
	KUNIT_EXPECT_EQ(test, ret, -EINVAL);
	KUNIT_EXPECT_FALSE(test, mutex_is_locked(&umem->umem_mutex));
	KUNIT_EXPECT_EQ(test, fault_all(test, ours, TO_WRITE), 1);
	KUNIT_EXPECT_EQ(test, vm_munmap(addr, PAGE_SIZE), 0);
	expect_pages(test, umem, ".");
	expect_pages(test, ours, ".");
}

static void releasing_gives_the_address_space_back(struct kunit *test)
{
	unsigned long addr = memory(test, 2, PROT_READ | PROT_WRITE);
	struct mm_struct *mm = current->mm;
	struct ib_umem_odp *root, *umem, *part;
	int count, looks = LOOKS;

	/* The first has the core make what it keeps with the address space. */
	umem = region(test, dma_device(test), addr, PAGE_SIZE, READ_WRITE);
	kunit_release_action(test, release_umem, umem);
	mmu_notifier_synchronize();
	rcu_barrier();

	KUNIT_EXPECT_EQ(test, atomic_read(&mm->mm_users), 1);
	count = atomic_read(&mm->mm_count);
	umem = region(test, dma_device(test), addr, 2 * PAGE_SIZE, READ_WRITE);
	root = anchor(test, dma_device(test));
	part = child(test, root, addr, 2 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), 2);
	KUNIT_EXPECT_EQ(test, fault_all(test, part, TO_WRITE), 2);
	kunit_release_action(test, release_umem, part);
	kunit_release_action(test, release_umem, root);
	kunit_release_action(test, release_umem, umem);
	while (atomic_read(&mm->mm_count) > count && looks--)
		msleep(20);
	KUNIT_EXPECT_EQ(test, atomic_read(&mm->mm_count), count);
	KUNIT_EXPECT_EQ(test, atomic_read(&mm->mm_users), 1);
}

/* A process that takes a file out of all page tables, again and again. */
struct zapper {
	struct file *file;
	struct completion done;
};

static int zap(void *data)
{
	struct zapper *zapper = data;
	int i;

	for (i = 0; i < 100; i++) {
		unmap_mapping_range(zapper->file->f_mapping, 0, 0, 1);
		usleep_range(1000, 5000);
	}
	kthread_complete_and_exit(&zapper->done, 0);
}

static void faults_and_invalidations_meet(struct kunit *test)
{
	const size_t pages = 32;
	struct file *file = shared_file(test, pages * PAGE_SIZE);
	unsigned long addr = map_file(test, file, pages * PAGE_SIZE, PROT_READ | PROT_WRITE);
	struct ib_umem_odp *umem = region(test, dma_device(test), addr, pages * PAGE_SIZE,
					  READ_WRITE);
	struct zapper zapper = {
		.file = file,
		.done = COMPLETION_INITIALIZER_ONSTACK(zapper.done),
	};
	struct task_struct *task;
	int mapped = 0;
	size_t i;

	task = kthread_run(zap, &zapper, "ib_odp_kunit");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);
	do {
		int ret = fault_all(test, umem, TO_WRITE);

		/* Who meets too many gives up. */
		if (ret != -EBUSY)
			KUNIT_EXPECT_EQ(test, ret, pages);
	} while (!completion_done(&zapper.done));
	KUNIT_EXPECT_GE(test, invalidations(umem), 1);
	for (i = 0; i < pages; i++)
		mapped += !!(entry(umem, i) & HMM_PFN_DMA_MAPPED);
	KUNIT_EXPECT_EQ(test, umem->npages, mapped);
	KUNIT_EXPECT_EQ(test, fault_all(test, umem, TO_WRITE), pages);
	for (i = 0; i < pages; i++) {
		device_write(test, umem, i, 50 + i);
		KUNIT_EXPECT_EQ(test, get_byte(test, addr + i * PAGE_SIZE), 50 + i);
	}
}

static struct kunit_case odp_cases[] = {
	KUNIT_CASE(region_is_of_whole_pages),
	KUNIT_CASE(pages_are_mapped_for_dma),
	KUNIT_CASE(pages_are_listed_for_the_cpu),
	KUNIT_CASE(only_what_is_wanted_is_mapped),
	KUNIT_CASE(many_pages),
	KUNIT_CASE(munmap_takes_pages_from_dma),
	KUNIT_CASE(munmap_takes_pages_from_the_cpu),
	KUNIT_CASE(what_was_zapped_comes_back),
	KUNIT_CASE(another_page_takes_the_place),
	KUNIT_CASE(unmapping_is_of_the_range),
	KUNIT_CASE(unmapping_takes_pages_with_any_byte),
	KUNIT_CASE(written_pages_are_dirty),
	KUNIT_CASE(what_the_cpu_wrote_is_dirty),
	KUNIT_CASE(read_pages_stay_clean),
	KUNIT_CASE(protection_holds_for_dma),
	KUNIT_CASE(protection_holds_for_the_cpu),
	KUNIT_CASE(addresses_outside_are_refused),
	KUNIT_CASE(lengths_that_overflow_are_refused),
	KUNIT_CASE(looking_faults_nothing_in_for_dma),
	KUNIT_CASE(looking_faults_nothing_in_for_the_cpu),
	KUNIT_CASE(huge_pages_are_mapped_as_a_whole),
	KUNIT_CASE(small_pages_make_no_huge_one),
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	KUNIT_CASE(part_of_a_huge_page_takes_it_all),
#endif
	KUNIT_CASE(regions_that_are_refused),
	KUNIT_CASE(devices_that_need_bounce_buffers_are_refused),
	KUNIT_CASE(anchor_has_children),
	KUNIT_CASE(children_go_before_and_after_their_anchor),
	KUNIT_CASE(children_are_of_the_process_of_their_anchor),
	KUNIT_CASE(faults_from_outside_the_process),
	KUNIT_CASE(only_regions_that_overlap_are_told),
	KUNIT_CASE(regions_overlap),
	KUNIT_CASE(address_space_goes_first),
	KUNIT_CASE(process_goes_first),
	KUNIT_CASE(releasing_gives_the_address_space_back),
	KUNIT_CASE(faults_and_invalidations_meet),
	{}
};

static struct kunit_suite odp_suite = {
	.name = "ib_umem_odp",
	.init = odp_init,
	.test_cases = odp_cases,
};

kunit_test_suite(odp_suite);

MODULE_DESCRIPTION("KUnit tests of ib_umem_odp");
MODULE_LICENSE("Dual BSD/GPL");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
