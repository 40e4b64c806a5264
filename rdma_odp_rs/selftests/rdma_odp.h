/* SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB */
/*
 * What the tests of RDMA on-demand paging share: a pair of connected queue
 * pairs in one process, regions on memory of any kind, transfers that end in
 * time, and data that is known byte for byte. Behind kselftest_harness.h.
 */
#ifndef _RDMA_ODP_H
#define _RDMA_ODP_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <linux/mman.h>

#include <infiniband/verbs.h>
#include <rdma/ib_user_ioctl_cmds.h>
#include <rdma/rdma_user_ioctl_cmds.h>

#define RW		(PROT_READ | PROT_WRITE)
#define PRIVATE		(MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED		(MAP_SHARED | MAP_ANONYMOUS)

#define KIB		1024UL
#define MIB		(1024 * KIB)
#define PAGE		4096UL
#define HUGE_PAGE	(2 * MIB)

/* How long a transfer may take, in seconds, however slow the machine is. */
#define PATIENCE	60
#define DEPTH		256
/* A quarter of a second, and more than an answer takes; see struct link. */
#define TIMEOUT_OF_ACK	16

#define ODP		IBV_ACCESS_ON_DEMAND
#define ALL_ACCESS	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | \
			 IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)

#define NO_DEVICE	"no RDMA device with on-demand paging"
#define DEADLY		"takes down a kernel whose rxe is C's (RDMA_ODP_SURVIVE is set)"
#define NO_HUGETLB	"no huge pages are reserved"
#define NO_THP		"no transparent huge page at hand"

/* Whether tests are to be left out that the kernel's own driver does not survive. */
static inline bool must_survive(void)
{
	return getenv("RDMA_ODP_SURVIVE");
}

/* For failures of the machine, not of the driver. */
static inline void die(const char *what)
{
	fprintf(stderr, "# %s: %s\n", what, strerror(errno));
	abort();
}

/* In seconds. */
static inline double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* A row of numbers that is the same in each run. */
static inline __u64 next_random(__u64 *state)
{
	__u64 x = (*state += 0x9e3779b97f4a7c15ULL);

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/* The byte at a place of the data with this tag. Two tags differ in every byte. */
static inline __u8 byte_of(__u8 tag, size_t at)
{
	__u64 state = at / 8;

	return (__u8)(next_random(&state) >> (at % 8 * 8)) + tag;
}

static inline void fill(void *mem, size_t size, __u8 tag)
{
	__u64 word = 0, state;
	__u8 *bytes = mem;
	size_t i;

	for (i = 0; i < size; i++, word >>= 8) {
		if (i % 8 == 0) {
			state = i / 8;
			word = next_random(&state);
		}
		bytes[i] = (__u8)word + tag;
	}
}

/* Where the data is first wrong; @size if nowhere. */
static inline size_t first_wrong(const void *mem, size_t from, size_t size, __u8 tag)
{
	const __u8 *bytes = mem;
	size_t i;

	for (i = 0; i < size; i++)
		if (bytes[i] != byte_of(tag, from + i))
			break;
	return i;
}

static inline bool is_data(const void *mem, size_t size, __u8 tag)
{
	return first_wrong(mem, 0, size, tag) == size;
}

static inline bool is_zero(const void *mem, size_t size)
{
	const __u8 *bytes = mem;

	return !size || (!bytes[0] && !memcmp(bytes, bytes + 1, size - 1));
}

static inline void *map(size_t size, int prot, int flags)
{
	void *mem = mmap(NULL, size, prot, flags, -1, 0);

	if (mem == MAP_FAILED)
		die("mmap");
	return mem;
}

/* Fresh memory at an address whose mapping, if any, goes away. */
static inline void map_at(void *addr, size_t size, int prot)
{
	if (mmap(addr, size, prot, PRIVATE | MAP_FIXED, -1, 0) != addr)
		die("mmap");
}

static inline void unmap(void *addr, size_t size)
{
	if (munmap(addr, size))
		die("munmap");
}

static inline void protect(void *addr, size_t size, int prot)
{
	if (mprotect(addr, size, prot))
		die("mprotect");
}

static inline void advise(void *addr, size_t size, int advice)
{
	if (madvise(addr, size, advice))
		die("madvise");
}

static inline int tmpfs_file(size_t size)
{
	int fd = memfd_create("rdma_odp", 0);

	if (fd < 0 || ftruncate(fd, size))
		die("memfd_create");
	return fd;
}

/* How many pages of the range are there, by the kernel's account. */
static inline size_t present(const void *mem, size_t size)
{
	__u64 entries[64];
	size_t at, count = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (fd < 0)
		die("/proc/self/pagemap");
	for (at = 0; at < size / PAGE; at++) {
		off_t where = ((uintptr_t)mem / PAGE + at) * sizeof(entries[0]);

		if (pread(fd, entries, sizeof(entries[0]), where) != sizeof(entries[0]))
			die("/proc/self/pagemap");
		count += entries[0] >> 63;
	}
	close(fd);
	return count;
}

/* The kinds of memory that a region can be on. */
enum kind {
	ANON,
	SHARED_ANON,
	FILE_SHARED,
	FILE_PRIVATE,
	HUGETLB,
	THP,
	KINDS
};

/* Memory of a kind, never touched, with its start at a huge page's; NULL if there is none. */
static inline void *map_kind(enum kind kind, size_t size)
{
	char *around, *mem;
	int fd, flags;

	if (kind == HUGETLB) {
		size = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
		mem = mmap(NULL, size, RW, PRIVATE | MAP_HUGETLB, -1, 0);
		return mem == MAP_FAILED ? NULL : mem;
	}
	around = map(size + HUGE_PAGE, PROT_NONE, PRIVATE | MAP_NORESERVE);
	mem = (char *)(((uintptr_t)around + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
	switch (kind) {
	case SHARED_ANON:
		if (mmap(mem, size, RW, SHARED | MAP_FIXED, -1, 0) != mem)
			die("mmap");
		break;
	case FILE_SHARED:
	case FILE_PRIVATE:
		fd = tmpfs_file(size);
		flags = MAP_FIXED | (kind == FILE_SHARED ? MAP_SHARED : MAP_PRIVATE);
		if (mmap(mem, size, RW, flags, fd, 0) != mem)
			die("mmap");
		close(fd);
		break;
	default:
		map_at(mem, size, RW);
		if (kind == THP && madvise(mem, size, MADV_HUGEPAGE))
			return NULL;
	}
	return mem;
}

/* One device, and two queue pairs that are connected to each other. */
struct link {
	struct ibv_context *context;
	struct ibv_pd *pd;
	/* Who asks, and whose completions are the channel's. */
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	/* Who answers. */
	struct ibv_comp_channel *peer_channel;
	struct ibv_cq *peer_cq;
	struct ibv_qp *peer;

	union ibv_gid gid;
	int gid_index;
	/* How long to wait for an answer before asking again: 4.096 us, so often doubled. */
	__u8 timeout;
	/* What queue pairs can do besides, if anything: of enum ibv_qp_create_send_ops_flags. */
	__u64 send_ops;
	/* Of the last transfer that went wrong. */
	enum ibv_wc_status status;
};

/* What another process has to know of a queue pair. */
struct address {
	union ibv_gid gid;
	__u32 qp_num;
};

/* Whether the device pages on demand. */
static inline bool has_odp(struct ibv_context *context, __u64 caps)
{
	struct ibv_device_attr_ex attr = {};

	return !ibv_query_device_ex(context, NULL, &attr) &&
		(attr.odp_caps.general_caps & caps) == caps;
}

/* The index of the first address that is IPv4's. */
static inline int find_gid(struct link *link)
{
	static const __u8 ipv4[12] = { [10] = 0xff, [11] = 0xff };
	int i;

	for (i = 0; !ibv_query_gid(link->context, 1, i, &link->gid); i++)
		if (!memcmp(link->gid.raw, ipv4, sizeof(ipv4)))
			return i;
	return -1;
}

/* NULL if the device cannot do what the queue pair is to do. */
static inline struct ibv_qp *create_qp(struct link *link, struct ibv_cq *cq)
{
	struct ibv_qp_init_attr_ex init = {
		.send_cq = cq,
		.recv_cq = cq,
		.cap = {
			.max_send_wr = DEPTH,
			.max_recv_wr = DEPTH,
			.max_send_sge = 4,
			.max_recv_sge = 4,
		},
		.qp_type = IBV_QPT_RC,
		.comp_mask = IBV_QP_INIT_ATTR_PD,
		.pd = link->pd,
		.send_ops_flags = link->send_ops,
	};

	if (link->send_ops)
		init.comp_mask |= IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
	return ibv_create_qp_ex(link->context, &init);
}

static inline bool has_send_ops(struct link *link)
{
	struct ibv_qp *qp = create_qp(link, link->cq);

	if (qp && ibv_destroy_qp(qp))
		die("cannot destroy a queue pair");
	return qp;
}

static inline struct ibv_qp *make_qp(struct link *link, struct ibv_cq *cq)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = 1,
		.qp_access_flags = ALL_ACCESS,
	};
	struct ibv_qp *qp = create_qp(link, cq);

	if (!qp || ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
				 IBV_QP_ACCESS_FLAGS))
		die("cannot make a queue pair");
	return qp;
}

/* A KiB at a time; whoever is not answered by a peer that is alive waits about a second. */
static inline void connect_qp(struct link *link, struct ibv_qp *qp, const struct address *to)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = IBV_MTU_1024,
		.dest_qp_num = to->qp_num,
		.rq_psn = 0xfffff0,
		.max_dest_rd_atomic = 16,
		.min_rnr_timer = 1,
		.ah_attr = {
			.is_global = 1,
			.grh = {
				.dgid = to->gid,
				.sgid_index = link->gid_index,
				.hop_limit = 1,
			},
			.port_num = 1,
		},
	};

	if (ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
			  IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
			  IBV_QP_MIN_RNR_TIMER))
		die("cannot get ready to receive");
	attr = (struct ibv_qp_attr) {
		.qp_state = IBV_QPS_RTS,
		.timeout = link->timeout,
		.retry_cnt = 7,
		.rnr_retry = 7,
		.sq_psn = 0xfffff0,
		.max_rd_atomic = 16,
	};
	if (ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
			  IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC))
		die("cannot get ready to send");
}

static inline struct address address_of(const struct link *link, const struct ibv_qp *qp)
{
	return (struct address) { .gid = link->gid, .qp_num = qp->qp_num };
}

static inline void link_connect(struct link *link)
{
	struct address to;

	link->qp = make_qp(link, link->cq);
	link->peer = make_qp(link, link->peer_cq);
	to = address_of(link, link->peer);
	connect_qp(link, link->qp, &to);
	to = address_of(link, link->qp);
	connect_qp(link, link->peer, &to);
}

/* False if there is no device to test. */
static inline bool link_open_device(struct link *link)
{
	struct ibv_device **devices = ibv_get_device_list(NULL);
	int i;

	memset(link, 0, sizeof(*link));
	link->timeout = TIMEOUT_OF_ACK;
	for (i = 0; devices && devices[i]; i++) {
		link->context = ibv_open_device(devices[i]);
		if (!link->context)
			continue;
		link->gid_index = find_gid(link);
		if (link->gid_index >= 0 && has_odp(link->context, IBV_ODP_SUPPORT))
			break;
		ibv_close_device(link->context);
		link->context = NULL;
	}
	if (devices)
		ibv_free_device_list(devices);
	if (!link->context)
		return false;
	link->pd = ibv_alloc_pd(link->context);
	link->channel = ibv_create_comp_channel(link->context);
	link->peer_channel = ibv_create_comp_channel(link->context);
	if (!link->pd || !link->channel || !link->peer_channel)
		die("cannot set up the device");
	link->cq = ibv_create_cq(link->context, 2 * DEPTH, NULL, link->channel, 0);
	link->peer_cq = ibv_create_cq(link->context, 2 * DEPTH, NULL, link->peer_channel, 0);
	if (!link->cq || !link->peer_cq)
		die("cannot make a completion queue");
	return true;
}

static inline bool link_open(struct link *link)
{
	if (!link_open_device(link))
		return false;
	link_connect(link);
	return true;
}

/* 0, or what the first destruction to fail says. */
static inline int link_disconnect(struct link *link)
{
	int err = 0;

	if (link->qp)
		err = ibv_destroy_qp(link->qp);
	if (!err && link->peer)
		err = ibv_destroy_qp(link->peer);
	link->qp = NULL;
	link->peer = NULL;
	return err;
}

static inline int link_close(struct link *link)
{
	int err;

	if (!link->context)
		return 0;
	err = link_disconnect(link);
	if (!err)
		err = ibv_destroy_cq(link->cq);
	if (!err)
		err = ibv_destroy_cq(link->peer_cq);
	if (!err)
		err = ibv_destroy_comp_channel(link->channel);
	if (!err)
		err = ibv_destroy_comp_channel(link->peer_channel);
	if (!err)
		err = ibv_dealloc_pd(link->pd);
	if (!err)
		err = ibv_close_device(link->context);
	link->context = NULL;
	return err;
}

/* Waits for one completion. False when none comes in time. */
static inline bool wait_on(struct ibv_cq *cq, struct ibv_comp_channel *channel, struct ibv_wc *wc)
{
	double end = now() + PATIENCE;

	for (;;) {
		struct pollfd poll_fd = { .fd = channel->fd, .events = POLLIN };
		struct ibv_cq *of;
		void *unused;
		int n = ibv_poll_cq(cq, 1, wc);

		if (n < 0)
			die("ibv_poll_cq");
		if (n)
			return true;
		if (ibv_req_notify_cq(cq, 0))
			die("ibv_req_notify_cq");
		n = ibv_poll_cq(cq, 1, wc);
		if (n)
			return n > 0;
		if (now() > end || poll(&poll_fd, 1, (end - now()) * 1000 + 1) <= 0)
			return false;
		if (ibv_get_cq_event(channel, &of, &unused))
			die("ibv_get_cq_event");
		ibv_ack_cq_events(of, 1);
	}
}

static inline bool wait_completion(struct link *link, struct ibv_wc *wc)
{
	return wait_on(link->cq, link->channel, wc);
}

/* After an error neither queue pair does anything any more; others take their places. */
static inline void link_renew(struct link *link)
{
	struct ibv_wc wc;

	if (link_disconnect(link))
		die("cannot destroy a queue pair");
	while (ibv_poll_cq(link->cq, 1, &wc) > 0)
		;
	while (ibv_poll_cq(link->peer_cq, 1, &wc) > 0)
		;
	link_connect(link);
}

/* A region, and the memory that it is on. */
struct region {
	char *mem;
	size_t size;
	struct ibv_mr *mr;
	/* What to add to an address to have the device's. */
	__u64 shift;
};

static inline __u64 at(const struct region *r, const void *addr)
{
	return (uintptr_t)addr + r->shift;
}

static inline struct region region_on(struct link *link, void *mem, size_t size, int access)
{
	struct region r = { .mem = mem, .size = size };

	r.mr = ibv_reg_mr(link->pd, mem, size, access);
	return r;
}

/* Memory of a kind and a region on all of it. */
static inline struct region region_make(struct link *link, enum kind kind, size_t size, int access)
{
	void *mem = map_kind(kind, size);

	if (!mem)
		return (struct region) {};
	return region_on(link, mem, size, access);
}

/* All of the ways to bring bytes from one region to another. */
enum way {
	WRITE,
	READ,
	SEND,
	WAYS
};

static const char * const way_names[] = { "write", "read", "send" };

static inline bool post_send(struct link *link, struct ibv_send_wr *wr)
{
	struct ibv_send_wr *bad;

	return !ibv_post_send(link->qp, wr, &bad);
}

/* Starts to move @size bytes, without waiting. The last one asks for a completion. */
static inline bool start_move(struct link *link, enum way how, const struct region *to,
			      const void *to_addr, const struct region *from,
			      const void *from_addr, size_t size, bool last)
{
	struct ibv_sge near = {}, far = {};
	struct ibv_send_wr wr = {
		.sg_list = &near,
		.num_sge = 1,
		.send_flags = last ? IBV_SEND_SIGNALED : 0,
	};
	struct ibv_recv_wr recv = { .sg_list = &far, .num_sge = 1 }, *bad;
	const struct region *local = how == READ ? to : from;
	const struct region *remote = how == READ ? from : to;

	near.addr = at(local, how == READ ? to_addr : from_addr);
	near.length = size;
	near.lkey = local->mr->lkey;
	switch (how) {
	case WRITE:
	case READ:
		wr.opcode = how == READ ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE;
		wr.wr.rdma.remote_addr = at(remote, how == READ ? from_addr : to_addr);
		wr.wr.rdma.rkey = remote->mr->rkey;
		break;
	default:
		wr.opcode = IBV_WR_SEND;
		far.addr = at(remote, to_addr);
		far.length = size;
		far.lkey = remote->mr->lkey;
		if (ibv_post_recv(link->peer, &recv, &bad))
			return false;
	}
	return post_send(link, &wr);
}

/* Waits for the last of @count moves that were started. */
static inline enum ibv_wc_status end_moves(struct link *link, enum way how, size_t count)
{
	struct ibv_wc wc = {};

	link->status = IBV_WC_GENERAL_ERR;
	if (!wait_completion(link, &wc))
		return link->status;
	link->status = wc.status;
	while (how == SEND && link->status == IBV_WC_SUCCESS && count--) {
		if (!wait_on(link->peer_cq, link->peer_channel, &wc))
			return link->status = IBV_WC_GENERAL_ERR;
		link->status = wc.status;
	}
	return link->status;
}

/* Moves bytes from one region to another and says how that ended. */
static inline enum ibv_wc_status move(struct link *link, enum way how, const struct region *to,
				      const void *to_addr, const struct region *from,
				      const void *from_addr, size_t size)
{
	if (!start_move(link, how, to, to_addr, from, from_addr, size, true))
		return link->status = IBV_WC_GENERAL_ERR;
	return end_moves(link, how, 1);
}

/* An atomic operation on eight bytes of @to, whose old value goes to @old. */
static inline enum ibv_wc_status atomic(struct link *link, enum ibv_wr_opcode opcode,
					const struct region *to, const void *addr,
					__u64 compare_add, __u64 swap,
					const struct region *old)
{
	struct ibv_sge near = {
		.addr = at(old, old->mem),
		.length = sizeof(__u64),
		.lkey = old->mr->lkey,
	};
	struct ibv_send_wr wr = {
		.sg_list = &near,
		.num_sge = 1,
		.opcode = opcode,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.atomic = {
			.remote_addr = at(to, addr),
			.compare_add = compare_add,
			.swap = swap,
			.rkey = to->mr->rkey,
		},
	};

	if (!post_send(link, &wr))
		return link->status = IBV_WC_GENERAL_ERR;
	return end_moves(link, WRITE, 1);
}

/* The library's ibv_advise_mr() does not pass it on to rxe. 0 or -errno of the kernel. */
static inline int advise_mr(const struct link *link, int advice, bool wait,
			    const struct ibv_sge *list, size_t count)
{
	struct {
		struct ib_uverbs_ioctl_hdr header;
		struct ib_uverbs_attr attrs[4];
	} command = {
		.header = {
			.length = sizeof(command),
			.object_id = UVERBS_OBJECT_MR,
			.method_id = UVERBS_METHOD_ADVISE_MR,
			.num_attrs = 4,
			.driver_id = RDMA_DRIVER_RXE,
		},
		.attrs = {
			{
				.attr_id = UVERBS_ATTR_ADVISE_MR_PD_HANDLE,
				.flags = UVERBS_ATTR_F_MANDATORY,
				.data = link->pd->handle,
			}, {
				.attr_id = UVERBS_ATTR_ADVISE_MR_ADVICE,
				.len = sizeof(__u64),
				.flags = UVERBS_ATTR_F_MANDATORY,
				.data = advice,
			}, {
				.attr_id = UVERBS_ATTR_ADVISE_MR_FLAGS,
				.len = sizeof(__u64),
				.flags = UVERBS_ATTR_F_MANDATORY,
				.data = wait ? IBV_ADVISE_MR_FLAG_FLUSH : 0,
			}, {
				.attr_id = UVERBS_ATTR_ADVISE_MR_SGE_LIST,
				.len = count * sizeof(*list),
				.flags = UVERBS_ATTR_F_MANDATORY,
				.data = (uintptr_t)list,
			},
		},
	};

	return ioctl(link->context->cmd_fd, RDMA_VERBS_IOCTL, &command) ? -errno : 0;
}

static inline int advise_range(const struct link *link, int advice, bool wait,
			       const struct region *r, const void *from, size_t size)
{
	struct ibv_sge piece = { .addr = at(r, from), .length = size, .lkey = r->mr->lkey };

	return advise_mr(link, advice, wait, &piece, 1);
}

#endif /* _RDMA_ODP_H */
