// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * Data through regions that page on demand: writes, reads, sends and atomics,
 * at every offset, of every length, from and to memory of every kind. All of
 * the target is compared byte for byte, what lies around the data as well.
 */
#include "kselftest_harness.h"
#include "rdma_odp.h"

#define TIMEOUT		300

#define SOURCE		1
#define TARGET		2
#define BATCH		64

FIXTURE(data)
{
	struct link link;
};

FIXTURE_VARIANT(data)
{
	enum way how;
	/* Which of the two regions page on demand. */
	int from_access;
	int to_access;
};

FIXTURE_VARIANT_ADD(data, write)
{
	.how = WRITE,
	.from_access = ODP,
	.to_access = ODP,
};

FIXTURE_VARIANT_ADD(data, read)
{
	.how = READ,
	.from_access = ODP,
	.to_access = ODP,
};

FIXTURE_VARIANT_ADD(data, send)
{
	.how = SEND,
	.from_access = ODP,
	.to_access = ODP,
};

FIXTURE_VARIANT_ADD(data, write_from_pinned)
{
	.how = WRITE,
	.to_access = ODP,
};

FIXTURE_VARIANT_ADD(data, write_to_pinned)
{
	.how = WRITE,
	.from_access = ODP,
};

FIXTURE_SETUP(data)
{
	if (!link_open(&self->link))
		SKIP(return, NO_DEVICE);
}

FIXTURE_TEARDOWN(data)
{
	EXPECT_EQ(0, link_close(&self->link));
}

/* Whether a target has what was moved to it, and around that what was there before. */
static bool is_target(const struct region *to, size_t offset, size_t size, const void *from,
		      size_t around)
{
	size_t start = offset > around ? offset - around : 0;
	size_t end = offset + size + around < to->size ? offset + size + around : to->size;

	return !memcmp(to->mem + offset, from, size) &&
		first_wrong(to->mem + start, start, offset - start, TARGET) == offset - start &&
		first_wrong(to->mem + offset + size, offset + size, end - offset - size,
			    TARGET) == end - offset - size;
}

static void put_back(const struct region *to, size_t offset, size_t size)
{
	size_t i;

	for (i = offset; i < offset + size; i++)
		to->mem[i] = byte_of(TARGET, i);
}

TEST_F_TIMEOUT(data, lengths, TIMEOUT)
{
	static const size_t sizes[] = {
		1, 2, 3, 4, 7, 8, 9, 63, 64, 65, 1000, 1023, 1024, 1025, 2047, 2048, 2049,
		4095, 4096, 4097, 5000, 8191, 8192, 12289, 64 * KIB, 64 * KIB + 1, MIB,
	};
	static const size_t offsets[][2] = {
		{ 0, 0 }, { 0, 1 }, { 1, 0 }, { 3, 5 }, { 4095, 0 }, { 0, 4095 }, { 4095, 4095 },
		{ 2048, 3072 }, { 1021, 3583 },
	};
	size_t size = MIB + 3 * PAGE, i, j;
	struct region from = region_make(&self->link, ANON, size,
					 ALL_ACCESS | variant->from_access);
	struct region to = region_make(&self->link, ANON, size, ALL_ACCESS | variant->to_access);

	ASSERT_NE(NULL, from.mr);
	ASSERT_NE(NULL, to.mr);
	fill(from.mem, size, SOURCE);
	fill(to.mem, size, TARGET);
	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		for (j = 0; j < ARRAY_SIZE(offsets); j++) {
			/* The longest take long. */
			if (sizes[i] > 16 * KIB && j % 4 != 3)
				continue;
			ASSERT_EQ(IBV_WC_SUCCESS,
				  move(&self->link, variant->how, &to, to.mem + offsets[j][1],
				       &from, from.mem + offsets[j][0], sizes[i]));
			ASSERT_TRUE(is_target(&to, offsets[j][1], sizes[i],
					      from.mem + offsets[j][0], 2 * PAGE)) {
				TH_LOG("%zu bytes from offset %zu to offset %zu", sizes[i],
				       offsets[j][0], offsets[j][1]);
			}
			put_back(&to, offsets[j][1], sizes[i]);
		}
	EXPECT_TRUE(is_data(from.mem, size, SOURCE));
	EXPECT_TRUE(is_data(to.mem, size, TARGET));
	EXPECT_EQ(0, ibv_dereg_mr(from.mr));
	EXPECT_EQ(0, ibv_dereg_mr(to.mr));
}

/* Each offset in a page, to each of which another one belongs on the other side. */
TEST_F_TIMEOUT(data, offsets, TIMEOUT)
{
	const size_t length = 100, size = BATCH * 2 * PAGE;
	struct region from = region_make(&self->link, ANON, size,
					 ALL_ACCESS | variant->from_access);
	struct region to = region_make(&self->link, ANON, size, ALL_ACCESS | variant->to_access);
	size_t first, i;

	ASSERT_NE(NULL, from.mr);
	ASSERT_NE(NULL, to.mr);
	fill(from.mem, size, SOURCE);
	for (first = 0; first < PAGE; first += BATCH) {
		fill(to.mem, size, TARGET);
		for (i = 0; i < BATCH; i++) {
			size_t start = i * 2 * PAGE + (first + i);
			size_t end = i * 2 * PAGE + (first + i) * 1021 % PAGE;

			ASSERT_TRUE(start_move(&self->link, variant->how, &to, to.mem + end, &from,
					       from.mem + start, length, i == BATCH - 1));
		}
		ASSERT_EQ(IBV_WC_SUCCESS, end_moves(&self->link, variant->how, BATCH));
		for (i = 0; i < BATCH; i++) {
			size_t start = i * 2 * PAGE + (first + i);
			size_t end = i * 2 * PAGE + (first + i) * 1021 % PAGE;

			ASSERT_TRUE(is_target(&to, end, length, from.mem + start, 64)) {
				TH_LOG("from offset %zu to offset %zu", start % PAGE, end % PAGE);
			}
		}
	}
	EXPECT_EQ(0, ibv_dereg_mr(from.mr));
	EXPECT_EQ(0, ibv_dereg_mr(to.mr));
}

/* The transfers that C's rxe gets right too: one packet, inside of one page. */
TEST_F_TIMEOUT(data, one_aligned_packet, TIMEOUT)
{
	size_t size = 16 * PAGE, i;
	struct region from = region_make(&self->link, ANON, size,
					 ALL_ACCESS | variant->from_access);
	struct region to = region_make(&self->link, ANON, size, ALL_ACCESS | variant->to_access);

	ASSERT_NE(NULL, from.mr);
	ASSERT_NE(NULL, to.mr);
	fill(from.mem, size, SOURCE);
	fill(to.mem, size, TARGET);
	for (i = 0; i < size; i += PAGE) {
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, variant->how, &to, to.mem + i, &from,
					       from.mem + size - PAGE - i, KIB));
		ASSERT_TRUE(is_target(&to, i, KIB, from.mem + size - PAGE - i, 3 * KIB));
	}
	EXPECT_EQ(0, ibv_dereg_mr(from.mr));
	EXPECT_EQ(0, ibv_dereg_mr(to.mr));
}

/* A message is gathered from pieces that begin and end anywhere. */
TEST_F_TIMEOUT(data, pieces, TIMEOUT)
{
	static const struct ibv_sge pieces[] = {
		{ .addr = 4090, .length = 11 },
		{ .addr = 3 * PAGE + 1, .length = 5000 },
		{ .addr = 7 * PAGE + 17, .length = 1 },
		{ .addr = 10 * PAGE - 3, .length = 4099 },
	};
	struct region near = region_make(&self->link, ANON, 16 * PAGE, ALL_ACCESS | ODP);
	struct region far = region_make(&self->link, ANON, 16 * PAGE, ALL_ACCESS | ODP);
	struct ibv_sge list[ARRAY_SIZE(pieces)];
	struct ibv_sge whole = { .addr = at(&far, far.mem + 33), .lkey = far.mr->lkey };
	struct ibv_send_wr wr = {
		.sg_list = list,
		.num_sge = ARRAY_SIZE(list),
		.send_flags = IBV_SEND_SIGNALED,
		.opcode = variant->how == SEND ? IBV_WR_SEND :
			  variant->how == READ ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
		.wr.rdma = { .remote_addr = at(&far, far.mem + 33), .rkey = far.mr->rkey },
	};
	struct ibv_recv_wr recv = { .sg_list = &whole, .num_sge = 1 }, *bad;
	size_t i, done = 33;

	fill(near.mem, near.size, SOURCE);
	fill(far.mem, far.size, TARGET);
	for (i = 0; i < ARRAY_SIZE(list); i++) {
		list[i] = pieces[i];
		list[i].addr += at(&near, near.mem);
		list[i].lkey = near.mr->lkey;
		whole.length += pieces[i].length;
	}
	if (variant->how == SEND)
		ASSERT_EQ(0, ibv_post_recv(self->link.peer, &recv, &bad));
	ASSERT_TRUE(post_send(&self->link, &wr));
	ASSERT_EQ(IBV_WC_SUCCESS, end_moves(&self->link, variant->how, 1));
	for (i = 0; i < ARRAY_SIZE(list); i++) {
		EXPECT_EQ(0, memcmp(near.mem + pieces[i].addr, far.mem + done, pieces[i].length)) {
			TH_LOG("piece %zu", i);
		}
		done += pieces[i].length;
	}
	EXPECT_EQ(0, ibv_dereg_mr(near.mr));
	EXPECT_EQ(0, ibv_dereg_mr(far.mr));
}

FIXTURE(memory)
{
	struct link link;
	struct region region;
	struct region other;
};

FIXTURE_VARIANT(memory)
{
	enum kind kind;
	int access;
};

FIXTURE_VARIANT_ADD(memory, anonymous)
{
	.kind = ANON,
};

FIXTURE_VARIANT_ADD(memory, shared)
{
	.kind = SHARED_ANON,
};

FIXTURE_VARIANT_ADD(memory, file)
{
	.kind = FILE_SHARED,
};

FIXTURE_VARIANT_ADD(memory, private_file)
{
	.kind = FILE_PRIVATE,
};

FIXTURE_VARIANT_ADD(memory, hugetlb)
{
	.kind = HUGETLB,
};

FIXTURE_VARIANT_ADD(memory, hugetlb_region)
{
	.kind = HUGETLB,
	.access = IBV_ACCESS_HUGETLB,
};

FIXTURE_VARIANT_ADD(memory, thp)
{
	.kind = THP,
};

#define MEMORY_SIZE	(2 * HUGE_PAGE)

FIXTURE_SETUP(memory)
{
	if (!link_open(&self->link))
		SKIP(return, NO_DEVICE);
	self->region = region_make(&self->link, variant->kind, MEMORY_SIZE,
				   ALL_ACCESS | ODP | variant->access);
	if (!self->region.mem)
		SKIP(return, "%s", variant->kind == HUGETLB ? NO_HUGETLB : NO_THP);
	if (!self->region.mr && variant->access)
		SKIP(return, "the device has no regions of huge pages: %s", strerror(errno));
	ASSERT_NE(NULL, self->region.mr);
	self->other = region_make(&self->link, ANON, MEMORY_SIZE, ALL_ACCESS);
	ASSERT_NE(NULL, self->other.mr);
}

FIXTURE_TEARDOWN(memory)
{
	if (self->region.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->region.mr));
	if (self->other.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->other.mr));
	EXPECT_EQ(0, link_close(&self->link));
}

/* The border of two huge pages, and of small ones, is in the middle of what is moved. */
#define ODD_SIZE	(5 * PAGE + 123)
#define ODD_OFFSET	(HUGE_PAGE - 2 * PAGE - 45)

/* The device is the first to touch the memory. */
TEST_F_TIMEOUT(memory, never_touched_is_written, TIMEOUT)
{
	fill(self->other.mem, MEMORY_SIZE, SOURCE);
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &self->region,
				       self->region.mem + ODD_OFFSET, &self->other,
				       self->other.mem, ODD_SIZE));
	EXPECT_TRUE(is_data(self->region.mem + ODD_OFFSET, ODD_SIZE, SOURCE));
	EXPECT_TRUE(is_zero(self->region.mem, ODD_OFFSET));
	EXPECT_TRUE(is_zero(self->region.mem + ODD_OFFSET + ODD_SIZE,
			    MEMORY_SIZE - ODD_OFFSET - ODD_SIZE));
}

TEST_F_TIMEOUT(memory, never_touched_is_read, TIMEOUT)
{
	fill(self->other.mem, MEMORY_SIZE, SOURCE);
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other, self->other.mem,
				       &self->region, self->region.mem + ODD_OFFSET, ODD_SIZE));
	EXPECT_TRUE(is_zero(self->other.mem, ODD_SIZE));
	EXPECT_EQ(ODD_SIZE, first_wrong(self->other.mem + ODD_SIZE, ODD_SIZE, ODD_SIZE, SOURCE));
}

TEST_F_TIMEOUT(memory, there_and_back, TIMEOUT)
{
	size_t size = MEMORY_SIZE / 2, offset = HUGE_PAGE / 2 + 77;

	fill(self->region.mem, MEMORY_SIZE, TARGET);
	fill(self->other.mem, MEMORY_SIZE, SOURCE);
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &self->region,
				       self->region.mem + offset, &self->other, self->other.mem,
				       size));
	EXPECT_TRUE(is_data(self->region.mem + offset, size, SOURCE));
	EXPECT_TRUE(is_data(self->region.mem, offset, TARGET));
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other,
				       self->other.mem + size + 1, &self->region,
				       self->region.mem + offset, size - 1));
	EXPECT_TRUE(is_data(self->other.mem + size + 1, size - 1, SOURCE));
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, SEND, &self->region, self->region.mem + 3,
				       &self->other, self->other.mem, size));
	EXPECT_TRUE(is_data(self->region.mem + 3, size, SOURCE));
}

/* What the processor writes after the device has been there is what the device reads. */
TEST_F_TIMEOUT(memory, written_by_both, TIMEOUT)
{
	unsigned int turn;

	for (turn = 0; turn < 8; turn++) {
		size_t offset = ODD_OFFSET + turn;

		fill(self->region.mem + offset, ODD_SIZE, 10 + turn);
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other, self->other.mem,
					       &self->region, self->region.mem + offset, ODD_SIZE));
		ASSERT_TRUE(is_data(self->other.mem, ODD_SIZE, 10 + turn));
		fill(self->other.mem, ODD_SIZE, 100 + turn);
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &self->region,
					       self->region.mem + offset, &self->other,
					       self->other.mem, ODD_SIZE));
		ASSERT_TRUE(is_data(self->region.mem + offset, ODD_SIZE, 100 + turn));
	}
}

TEST_F_TIMEOUT(memory, atomics, TIMEOUT)
{
	__u64 *old = (__u64 *)self->other.mem;
	size_t offset;

	/* The words around the border of two huge pages, and of small ones. */
	for (offset = HUGE_PAGE - 64; offset < HUGE_PAGE + 64; offset += 8) {
		__u64 *word = (__u64 *)(self->region.mem + offset);

		*old = 1;
		ASSERT_EQ(IBV_WC_SUCCESS, atomic(&self->link, IBV_WR_ATOMIC_FETCH_AND_ADD,
						 &self->region, word, offset, 0, &self->other));
		ASSERT_EQ(0, *old);
		ASSERT_EQ(offset, *word);
	}
}

FIXTURE(atomics)
{
	struct link link;
	struct region region;
	struct region old;
};

FIXTURE_SETUP(atomics)
{
	if (!link_open(&self->link))
		SKIP(return, NO_DEVICE);
	self->region = region_make(&self->link, ANON, 4 * PAGE, ALL_ACCESS | ODP);
	self->old = region_make(&self->link, ANON, PAGE, ALL_ACCESS | ODP);
	ASSERT_NE(NULL, self->region.mr);
	ASSERT_NE(NULL, self->old.mr);
}

FIXTURE_TEARDOWN(atomics)
{
	if (self->region.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->region.mr));
	if (self->old.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->old.mr));
	EXPECT_EQ(0, link_close(&self->link));
}

TEST_F_TIMEOUT(atomics, every_word, TIMEOUT)
{
	__u64 *old = (__u64 *)self->old.mem, *words = (__u64 *)self->region.mem;
	size_t count = 2 * PAGE / sizeof(*words), i;

	fill(words, 2 * PAGE, SOURCE);
	for (i = 0; i < count; i++) {
		__u64 before = words[i];

		ASSERT_EQ(IBV_WC_SUCCESS, atomic(&self->link, IBV_WR_ATOMIC_FETCH_AND_ADD,
						 &self->region, &words[i], 5, 0, &self->old));
		ASSERT_EQ(before, *old);
		ASSERT_EQ(before + 5, words[i]);
		/* One that does not compare changes nothing; one that does swaps. */
		ASSERT_EQ(IBV_WC_SUCCESS, atomic(&self->link, IBV_WR_ATOMIC_CMP_AND_SWP,
						 &self->region, &words[i], before, 7, &self->old));
		ASSERT_EQ(before + 5, *old);
		ASSERT_EQ(before + 5, words[i]);
		ASSERT_EQ(IBV_WC_SUCCESS, atomic(&self->link, IBV_WR_ATOMIC_CMP_AND_SWP,
						 &self->region, &words[i], before + 5, before,
						 &self->old));
		ASSERT_EQ(before + 5, *old);
	}
	EXPECT_TRUE(is_data(words, 2 * PAGE, SOURCE));
	EXPECT_TRUE(is_zero(words + count, 2 * PAGE));
}

/* The old value may land anywhere. */
TEST_F_TIMEOUT(atomics, result_at_every_offset, TIMEOUT)
{
	struct region result = self->old;
	__u64 *word = (__u64 *)(self->region.mem + PAGE - 8);
	size_t offset;

	for (offset = 0; offset < 16; offset++) {
		result.mem = self->region.mem + 2 * PAGE - 8 + offset;
		result.mr = self->region.mr;
		*word = 0x123456789abcdef0;
		fill(self->region.mem + PAGE, 3 * PAGE, TARGET);
		ASSERT_EQ(IBV_WC_SUCCESS, atomic(&self->link, IBV_WR_ATOMIC_FETCH_AND_ADD,
						 &self->region, word, 1, 0, &result));
		ASSERT_EQ(0, memcmp(result.mem, "\xf0\xde\xbc\x9a\x78\x56\x34\x12", 8)) {
			TH_LOG("%zu", offset);
		}
		ASSERT_EQ(0x123456789abcdef1, *word);
		ASSERT_EQ(PAGE - 8 + offset,
			  first_wrong(self->region.mem + PAGE, 0, PAGE - 8 + offset, TARGET));
	}
}

/* By the library, if not by the device. */
TEST_F_TIMEOUT(atomics, misaligned_is_refused, TIMEOUT)
{
	size_t offset;

	fill(self->region.mem, self->region.size, SOURCE);
	for (offset = 1; offset < 8; offset++) {
		EXPECT_NE(IBV_WC_SUCCESS,
			  atomic(&self->link, IBV_WR_ATOMIC_FETCH_AND_ADD, &self->region,
				 self->region.mem + PAGE - 8 + offset, 1, 0, &self->old));
		link_renew(&self->link);
	}
	EXPECT_TRUE(is_data(self->region.mem, self->region.size, SOURCE));
}

TEST_F_TIMEOUT(atomics, out_of_bounds_is_refused, TIMEOUT)
{
	fill(self->region.mem, self->region.size, SOURCE);
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR,
		  atomic(&self->link, IBV_WR_ATOMIC_FETCH_AND_ADD, &self->region,
			 self->region.mem + self->region.size, 1, 0, &self->old));
	link_renew(&self->link);
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR,
		  atomic(&self->link, IBV_WR_ATOMIC_FETCH_AND_ADD, &self->region,
			 self->region.mem - 8, 1, 0, &self->old));
	EXPECT_TRUE(is_data(self->region.mem, self->region.size, SOURCE));
}

/* Writes a word at once. */
static enum ibv_wc_status atomic_write(struct link *link, const struct region *to,
				       const void *addr, __u64 value)
{
	struct ibv_qp_ex *qp = ibv_qp_to_qp_ex(link->qp);

	ibv_wr_start(qp);
	qp->wr_flags = IBV_SEND_SIGNALED;
	ibv_wr_atomic_write(qp, to->mr->rkey, at(to, addr), &value);
	if (ibv_wr_complete(qp))
		return link->status = IBV_WC_GENERAL_ERR;
	return end_moves(link, WRITE, 1);
}

TEST_F_TIMEOUT(atomics, written_at_once, TIMEOUT)
{
	__u64 *words = (__u64 *)self->region.mem;
	size_t count = 2 * PAGE / sizeof(*words), i;

	if (link_disconnect(&self->link))
		die("cannot destroy a queue pair");
	self->link.send_ops = IBV_QP_EX_WITH_ATOMIC_WRITE;
	if (!has_send_ops(&self->link)) {
		self->link.send_ops = 0;
		SKIP(return, "the library has no atomic write for the device");
	}
	link_connect(&self->link);
	for (i = 0; i < count; i++) {
		ASSERT_EQ(IBV_WC_SUCCESS, atomic_write(&self->link, &self->region, &words[i],
						       0x0102030405060708 * i));
		ASSERT_EQ(0x0102030405060708 * i, words[i]);
	}
	EXPECT_TRUE(is_zero(words + count, 2 * PAGE));
	fill(words, 2 * PAGE, SOURCE);
	EXPECT_EQ(IBV_WC_REM_INV_REQ_ERR,
		  atomic_write(&self->link, &self->region, (char *)words + 4, 1));
	link_renew(&self->link);
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, atomic_write(&self->link, &self->region,
						      self->region.mem + self->region.size, 1));
	EXPECT_TRUE(is_data(words, 2 * PAGE, SOURCE));
}

TEST_HARNESS_MAIN
