// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * Regions, processes and modules that come and go: two processes, regions that
 * are deregistered and processes that end while data is under way, thousands
 * of regions in one process, and modules that are in use.
 */
#include "kselftest_harness.h"
#include "rdma_odp.h"

#define TIMEOUT		300
/* For thousands of regions on a kernel that checks each allocation. */
#define LONG_TIMEOUT	900

#define OLD		1
#define NEW		2

#define SIZE		(64 * KIB)
#define IN_FLIGHT	32
#define TURNS		20
#define MANY		10000
#define FEW		200

FIXTURE(lifetime)
{
	struct link link;
	struct region other;
};

FIXTURE_SETUP(lifetime)
{
	if (!link_open(&self->link))
		SKIP(return, NO_DEVICE);
	self->other = region_make(&self->link, ANON, SIZE, ALL_ACCESS);
	ASSERT_NE(NULL, self->other.mr);
	fill(self->other.mem, SIZE, NEW);
}

FIXTURE_TEARDOWN(lifetime)
{
	if (self->other.mr)
		EXPECT_EQ(0, ibv_dereg_mr(self->other.mr));
	EXPECT_EQ(0, link_close(&self->link));
}

/* Starts writes of a whole region each, none of which is waited for. */
static bool start_many(struct link *link, const struct region *to, const struct region *from)
{
	size_t i;

	for (i = 0; i < IN_FLIGHT; i++)
		if (!start_move(link, WRITE, to, to->mem, from, from->mem, SIZE,
				i == IN_FLIGHT - 1))
			return false;
	return true;
}

/* What was started ends in one way or another, and the next region works. */
TEST_F_TIMEOUT(lifetime, deregister_in_flight, TIMEOUT)
{
	unsigned int turn;

	for (turn = 0; turn < TURNS; turn++) {
		struct region region = region_make(&self->link, ANON, SIZE, ALL_ACCESS | ODP);
		enum ibv_wc_status status;

		ASSERT_NE(NULL, region.mr);
		ASSERT_TRUE(start_many(&self->link, &region, &self->other));
		ASSERT_EQ(0, ibv_dereg_mr(region.mr));
		/* Nothing arrives any more. */
		memset(region.mem, 0, SIZE);
		status = end_moves(&self->link, WRITE, IN_FLIGHT);
		if (status != IBV_WC_SUCCESS) {
			ASSERT_EQ(IBV_WC_REM_ACCESS_ERR, status);
			EXPECT_TRUE(is_zero(region.mem, SIZE));
			link_renew(&self->link);
		}
		unmap(region.mem, SIZE);
	}
}

/* The local side goes away. */
TEST_F_TIMEOUT(lifetime, deregister_source_in_flight, TIMEOUT)
{
	unsigned int turn;

	for (turn = 0; turn < TURNS; turn++) {
		struct region region = region_make(&self->link, ANON, SIZE, ALL_ACCESS | ODP);
		enum ibv_wc_status status;

		ASSERT_NE(NULL, region.mr);
		ASSERT_TRUE(start_many(&self->link, &self->other, &region));
		ASSERT_EQ(0, ibv_dereg_mr(region.mr));
		status = end_moves(&self->link, WRITE, IN_FLIGHT);
		if (status != IBV_WC_SUCCESS) {
			ASSERT_TRUE(status == IBV_WC_LOC_PROT_ERR ||
				    status == IBV_WC_WR_FLUSH_ERR);
			link_renew(&self->link);
		}
		unmap(region.mem, SIZE);
	}
}

/* The memory goes away, the region stays. */
TEST_F_TIMEOUT(lifetime, unmap_in_flight, TIMEOUT)
{
	struct region region = region_make(&self->link, ANON, SIZE, ALL_ACCESS | ODP);
	unsigned int turn;

	ASSERT_NE(NULL, region.mr);
	for (turn = 0; turn < TURNS; turn++) {
		enum ibv_wc_status status;

		ASSERT_TRUE(start_many(&self->link, &region, &self->other));
		unmap(region.mem, SIZE);
		status = end_moves(&self->link, WRITE, IN_FLIGHT);
		if (status != IBV_WC_SUCCESS) {
			ASSERT_EQ(IBV_WC_REM_ACCESS_ERR, status);
			link_renew(&self->link);
		}
		map_at(region.mem, SIZE, RW);
	}
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &region, region.mem, &self->other,
				       self->other.mem, SIZE));
	EXPECT_TRUE(is_data(region.mem, SIZE, NEW));
	EXPECT_EQ(0, ibv_dereg_mr(region.mr));
}

/* Sets up a link of its own in a child, starts transfers there and says so. */
static void child_that_is_busy(int to_parent)
{
	struct region from, to;
	struct link link;
	char byte = 0;

	if (!link_open(&link))
		_exit(2);
	from = region_make(&link, ANON, SIZE, ALL_ACCESS | ODP);
	to = region_make(&link, ANON, SIZE, ALL_ACCESS | ODP);
	if (!from.mr || !to.mr)
		_exit(3);
	if (!start_many(&link, &to, &from) || write(to_parent, &byte, 1) != 1)
		_exit(4);
}

/* A process that ends takes all that it had with it. */
TEST_F_TIMEOUT(lifetime, exit_in_flight, TIMEOUT)
{
	unsigned int turn;

	for (turn = 0; turn < TURNS; turn++) {
		int pipe_fds[2], status;
		char byte;
		pid_t child;

		ASSERT_EQ(0, pipe(pipe_fds));
		child = fork();
		ASSERT_LE(0, child);
		if (!child) {
			child_that_is_busy(pipe_fds[1]);
			if (turn % 2 == 0)
				_exit(0);
			for (;;)
				pause();
		}
		close(pipe_fds[1]);
		ASSERT_EQ(1, read(pipe_fds[0], &byte, 1));
		close(pipe_fds[0]);
		if (turn % 2)
			ASSERT_EQ(0, kill(child, SIGKILL));
		ASSERT_EQ(child, waitpid(child, &status, 0));
		ASSERT_EQ(turn % 2 ? SIGKILL : 0, status);
	}
	/* The device is as good as it was. */
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other, self->other.mem,
				       &self->other, self->other.mem + SIZE / 2, SIZE / 4));
}

/* The parent of a process with regions may exit first: the region is the opener's memory. */
TEST_F_TIMEOUT(lifetime, region_outlives_its_memory, TIMEOUT)
{
	int to_child[2], to_parent[2];
	struct region region;
	char byte = 0;
	pid_t opener;

	ASSERT_EQ(0, pipe(to_child));
	ASSERT_EQ(0, pipe(to_parent));
	opener = fork();
	ASSERT_LE(0, opener);
	if (!opener) {
		struct link link;
		pid_t heir;

		if (!link_open(&link))
			_exit(2);
		region = region_make(&link, ANON, SIZE, ALL_ACCESS | ODP);
		if (!region.mr || move(&link, WRITE, &region, region.mem, &region,
				       region.mem + SIZE / 2, KIB))
			_exit(3);
		heir = fork();
		if (heir)
			_exit(heir < 0);
		/* The device is still open here, and the memory of who opened it is gone. */
		close(to_child[1]);
		if (read(to_child[0], &byte, 1) < 0)
			_exit(2);
		ibv_dereg_mr(region.mr);
		link_close(&link);
		byte = 1;
		if (write(to_parent[1], &byte, 1) != 1)
			_exit(2);
		_exit(0);
	}
	close(to_parent[1]);
	ASSERT_EQ(opener, waitpid(opener, NULL, 0));
	ASSERT_EQ(1, write(to_child[1], &byte, 1));
	ASSERT_EQ(1, read(to_parent[0], &byte, 1));
	EXPECT_EQ(1, byte);
}

struct offer {
	struct address address;
	__u64 addr;
	__u32 rkey;
};

/* Another process offers its memory, writes it and looks at what has arrived. */
static void child_that_serves(int fd, size_t size)
{
	struct link link;
	struct region region;
	struct address peer;
	struct offer offer;
	char byte;

	if (!link_open_device(&link))
		_exit(2);
	region = region_make(&link, ANON, size, ALL_ACCESS | ODP);
	link.peer = make_qp(&link, link.peer_cq);
	if (!region.mr)
		_exit(3);
	offer.address = address_of(&link, link.peer);
	offer.addr = at(&region, region.mem);
	offer.rkey = region.mr->rkey;
	if (write(fd, &offer, sizeof(offer)) != sizeof(offer) ||
	    read(fd, &peer, sizeof(peer)) != sizeof(peer))
		_exit(4);
	connect_qp(&link, link.peer, &peer);
	fill(region.mem, size, OLD);
	if (write(fd, "r", 1) != 1)
		_exit(4);
	while (read(fd, &byte, 1) == 1) {
		char answer = is_data(region.mem, size, byte);

		/* The pages go, and others take their places. */
		advise(region.mem, size, MADV_DONTNEED);
		fill(region.mem, size, byte + 1);
		if (write(fd, &answer, 1) != 1)
			_exit(4);
	}
	_exit(ibv_dereg_mr(region.mr) || link_close(&link));
}

FIXTURE(processes)
{
	struct link link;
	struct region mine;
	struct region theirs;
	struct ibv_mr named;
	int fd;
	pid_t child;
};

FIXTURE_SETUP(processes)
{
	struct address address;
	struct offer offer;
	int fds[2];
	char byte;

	self->fd = -1;
	if (!link_open_device(&self->link))
		SKIP(return, NO_DEVICE);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	self->child = fork();
	ASSERT_LE(0, self->child);
	if (!self->child) {
		close(fds[0]);
		child_that_serves(fds[1], SIZE);
	}
	close(fds[1]);
	self->fd = fds[0];
	self->mine = region_make(&self->link, ANON, SIZE, ALL_ACCESS | ODP);
	ASSERT_NE(NULL, self->mine.mr);
	self->link.qp = make_qp(&self->link, self->link.cq);
	ASSERT_EQ(sizeof(offer), read(self->fd, &offer, sizeof(offer)));
	address = address_of(&self->link, self->link.qp);
	ASSERT_EQ(sizeof(address), write(self->fd, &address, sizeof(address)));
	connect_qp(&self->link, self->link.qp, &offer.address);
	self->named.rkey = offer.rkey;
	self->theirs = (struct region) {
		.mem = (char *)(uintptr_t)offer.addr,
		.size = SIZE,
		.mr = &self->named,
	};
	ASSERT_EQ(1, read(self->fd, &byte, 1));
}

FIXTURE_TEARDOWN(processes)
{
	if (self->fd < 0)
		return;
	close(self->fd);
	waitpid(self->child, NULL, 0);
	EXPECT_EQ(0, ibv_dereg_mr(self->mine.mr));
	EXPECT_EQ(0, link_close(&self->link));
}

TEST_F_TIMEOUT(processes, both_ways, TIMEOUT)
{
	char tag;

	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->mine, self->mine.mem,
				       &self->theirs, self->theirs.mem, SIZE));
	ASSERT_TRUE(is_data(self->mine.mem, SIZE, OLD));
	for (tag = 10; tag < 30; tag += 2) {
		char answer;

		fill(self->mine.mem, SIZE, tag);
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &self->theirs,
					       self->theirs.mem, &self->mine, self->mine.mem,
					       SIZE));
		ASSERT_EQ(1, write(self->fd, &tag, 1));
		ASSERT_EQ(1, read(self->fd, &answer, 1));
		ASSERT_EQ(1, answer);
		advise(self->mine.mem, SIZE, MADV_DONTNEED);
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->mine,
					       self->mine.mem, &self->theirs, self->theirs.mem,
					       SIZE));
		ASSERT_TRUE(is_data(self->mine.mem, SIZE, tag + 1));
	}
}

/* Who is left is told, if late: nobody answers. */
TEST_F_TIMEOUT(processes, peer_is_killed, TIMEOUT)
{
	enum ibv_wc_status status;

	ASSERT_TRUE(start_many(&self->link, &self->theirs, &self->mine));
	ASSERT_EQ(0, kill(self->child, SIGKILL));
	ASSERT_EQ(self->child, waitpid(self->child, NULL, 0));
	status = end_moves(&self->link, WRITE, IN_FLIGHT);
	EXPECT_TRUE(status == IBV_WC_SUCCESS || status == IBV_WC_RETRY_EXC_ERR ||
		    status == IBV_WC_REM_ACCESS_ERR || status == IBV_WC_REM_OP_ERR) {
		TH_LOG("%s", ibv_wc_status_str(status));
	}
}

TEST_F_TIMEOUT(lifetime, many_regions, LONG_TIMEOUT)
{
	char *mem = map(MANY * PAGE, RW, PRIVATE | MAP_NORESERVE);
	struct region *regions = calloc(MANY, sizeof(*regions));
	__u64 state = 1;
	size_t i;

	for (i = 0; i < MANY; i++) {
		regions[i] = region_on(&self->link, mem + i * PAGE, PAGE, ALL_ACCESS | ODP);
		ASSERT_NE(NULL, regions[i].mr) {
			TH_LOG("region %zu", i);
		}
	}
	for (i = 0; i < FEW; i++) {
		const struct region *r = &regions[next_random(&state) % MANY];

		advise(r->mem, PAGE, MADV_DONTNEED);
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, r, r->mem, &self->other,
					       self->other.mem, KIB));
		ASSERT_TRUE(is_data(r->mem, KIB, NEW));
		ASSERT_TRUE(is_zero(r->mem + KIB, PAGE - KIB));
	}
	/* All of them at once. */
	advise(mem, MANY * PAGE, MADV_DONTNEED);
	for (i = 0; i < FEW; i++) {
		const struct region *r = &regions[next_random(&state) % MANY];

		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other, self->other.mem,
					       r, r->mem, KIB));
		ASSERT_TRUE(is_zero(self->other.mem, KIB));
	}
	for (i = 0; i < MANY; i++)
		ASSERT_EQ(0, ibv_dereg_mr(regions[i].mr));
	unmap(mem, MANY * PAGE);
	free(regions);
}

/* Many on the same page, each of which has to hear of each change. */
TEST_F_TIMEOUT(lifetime, many_regions_on_one_page, TIMEOUT)
{
	char *mem = map(PAGE, RW, PRIVATE);
	struct region regions[FEW];
	size_t i;

	for (i = 0; i < FEW; i++) {
		regions[i] = region_on(&self->link, mem, PAGE, ALL_ACCESS | ODP);
		ASSERT_NE(NULL, regions[i].mr);
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &regions[i], mem, &self->other,
					       self->other.mem, KIB));
		ASSERT_TRUE(is_data(mem, KIB, NEW));
	}
	advise(mem, PAGE, MADV_DONTNEED);
	for (i = 0; i < FEW; i++) {
		ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, READ, &self->other, self->other.mem,
					       &regions[i], mem, KIB));
		ASSERT_TRUE(is_zero(self->other.mem, KIB));
	}
	for (i = 0; i < FEW; i++)
		ASSERT_EQ(0, ibv_dereg_mr(regions[i].mr));
}

/* Nothing that the driver stands on can be unloaded while it is used. */
TEST_F_TIMEOUT(lifetime, modules_are_in_use, TIMEOUT)
{
	static const char * const names[] = { "ib_uverbs", "ib_core", "mmu_notifier_helpers" };
	struct region region = region_make(&self->link, ANON, SIZE, ALL_ACCESS | ODP);
	char path[64];
	size_t i;

	ASSERT_NE(NULL, region.mr);
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "/sys/module/%s/holders/rdma_rxe", names[i]);
		if (access(path, F_OK))
			continue;
		EXPECT_EQ(-1, syscall(SYS_delete_module, names[i], O_NONBLOCK));
		EXPECT_EQ(EAGAIN, errno) {
			TH_LOG("%s: %s", names[i], strerror(errno));
		}
	}
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &region, region.mem, &self->other,
				       self->other.mem, KIB));
	EXPECT_TRUE(is_data(region.mem, KIB, NEW));
	EXPECT_EQ(0, ibv_dereg_mr(region.mr));
}

/* Makes the device that was there before the driver was removed. */
static bool make_device(const char *module, const char *name, const char *parent)
{
	char command[256];
	int fd = open(module, O_RDONLY);
	bool loaded = fd >= 0 && !syscall(SYS_finit_module, fd, "", 0);

	if (fd >= 0)
		close(fd);
	snprintf(command, sizeof(command), "rdma link add %s type rxe netdev %s", name, parent);
	return loaded && !system(command);
}

/* The driver itself lets go of a device that is in use, as if it were unplugged. */
TEST_F_TIMEOUT(lifetime, driver_is_removed, TIMEOUT)
{
	const char *module = getenv("RDMA_RXE_KO");
	char path[128], name[IBV_SYSFS_NAME_MAX], parent[64] = "";
	struct region region;
	struct link link;
	double end;
	int fd;

	if (!module)
		SKIP(return, "RDMA_RXE_KO does not say where the driver's module is");
	snprintf(name, sizeof(name), "%s", ibv_get_device_name(self->link.context->device));
	snprintf(path, sizeof(path), "/sys/class/infiniband/%s/parent", name);
	fd = open(path, O_RDONLY);
	ASSERT_LE(0, fd);
	ASSERT_LT(0, read(fd, parent, sizeof(parent) - 1));
	close(fd);
	parent[strcspn(parent, "\n")] = 0;

	region = region_make(&self->link, ANON, SIZE, ALL_ACCESS | ODP);
	ASSERT_NE(NULL, region.mr);
	ASSERT_EQ(IBV_WC_SUCCESS, move(&self->link, WRITE, &region, region.mem, &self->other,
				       self->other.mem, KIB));
	if (syscall(SYS_delete_module, "rdma_rxe", O_NONBLOCK)) {
		/* A driver that refuses is fine, and as good as it was. */
		ASSERT_EQ(EAGAIN, errno);
		EXPECT_EQ(0, ibv_dereg_mr(region.mr));
		return;
	}
	/* What the region was on can change, and the process goes on without it. */
	advise(region.mem, SIZE, MADV_DONTNEED);
	unmap(region.mem, SIZE);
	ibv_dereg_mr(region.mr);
	ASSERT_TRUE(make_device(module, name, parent));

	/* The address comes with the device, from a work queue. */
	end = now() + PATIENCE;
	while (!link_open(&link)) {
		ASSERT_GT(end, now());
		sched_yield();
	}
	region = region_make(&link, ANON, SIZE, ALL_ACCESS | ODP);
	ASSERT_NE(NULL, region.mr);
	ASSERT_EQ(IBV_WC_SUCCESS, move(&link, WRITE, &region, region.mem, &region,
				       region.mem + PAGE, KIB));
	EXPECT_EQ(0, ibv_dereg_mr(region.mr));
	EXPECT_EQ(0, link_close(&link));
	/* Of the old device only the file is left; it goes with the process. */
	self->other.mr = NULL;
	self->link.context = NULL;
}

TEST_HARNESS_MAIN
