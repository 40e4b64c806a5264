// SPDX-License-Identifier: GPL-2.0
/*
 * How long the GPU mirror's descriptors, transfers and pages live: descriptors
 * that are inherited, duplicated, closed in use or left without their memory,
 * and processes that end while the device works for them.
 */
#include "kselftest_harness.h"
#include "gpu_mirror.h"

FIXTURE(lifetime)
{
	int fd;
};

FIXTURE_VARIANT(lifetime)
{
	int unit;
};

FIXTURE_VARIANT_ADD(lifetime, dmirror0)
{
	.unit = 0,
};

FIXTURE_VARIANT_ADD(lifetime, dmirror1)
{
	.unit = 1,
};

FIXTURE_SETUP(lifetime)
{
	self->fd = device_open(variant->unit);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(lifetime)
{
	EXPECT_EQ(0, self->fd < 0 ? 0 : close(self->fd));
}

TEST_F_TIMEOUT(lifetime, opens_a_thousand_times, 120)
{
	void *mem = map(1, RW, PRIVATE);
	void *data = map(1, RW, PRIVATE);
	int i;

	fill(mem, 1, OLD_DATA);
	for (i = 0; i < 1000; i++) {
		int fd = device_open(variant->unit);

		ASSERT_LE(0, fd);
		ASSERT_EQ(0, i % 10 ? 0 : device_read(fd, mem, data, 1));
		ASSERT_EQ(0, close(fd));
	}
	EXPECT_TRUE(holds(data, 0, 1, OLD_DATA));
}

TEST_F(lifetime, opens_many_at_once)
{
	void *mem = map(1, RW, PRIVATE);
	void *data = map(1, RW, PRIVATE);
	int fd[64];
	size_t i;

	fill(mem, 1, OLD_DATA);
	for (i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = device_open(variant->unit);
		ASSERT_LE(0, fd[i]);
		ASSERT_EQ(0, device_read(fd[i], mem, data, 1));
	}
	map_at(mem, 1, RW);
	for (i = 0; i < ARRAY_SIZE(fd); i++) {
		ASSERT_EQ(0, device_read(fd[i], mem, data, 1));
		ASSERT_TRUE(is_zero(data, 1));
		ASSERT_EQ(0, close(fd[i]));
	}
}

TEST_F(lifetime, duplicate_is_the_same_mirror)
{
	int copy = dup(self->fd);

	ASSERT_LE(0, copy);
	EXPECT_TRUE(device_works(copy));
	EXPECT_EQ(0, close(self->fd));
	self->fd = copy;
	EXPECT_TRUE(device_works(copy));
}

/* An inherited descriptor goes on mirroring the process that opened it. */
TEST_F(lifetime, inherited_descriptor_sees_parent)
{
	void *mem = map(33, RW, PRIVATE);
	void *data = map(33, RW, PRIVATE);
	pid_t pid;

	fill(mem, 33, OLD_DATA);
	pid = start_child();
	if (!pid) {
		fill(mem, 33, OTHER_DATA);
		ASSERT_EQ(0, device_read(self->fd, mem, data, 33));
		ASSERT_TRUE(holds(data, 0, 33, OLD_DATA));
		fill(data, 33, NEW_DATA);
		ASSERT_EQ(0, device_write(self->fd, mem, data, 33));
		ASSERT_TRUE(holds(mem, 0, 33, OTHER_DATA));
		unmap(mem, 33);
		ASSERT_EQ(0, device_read(self->fd, mem, data, 33));
		_exit(0);
	}
	ASSERT_EQ(0, wait_child(pid));
	EXPECT_TRUE(holds(mem, 0, 33, NEW_DATA));
}

/* It moves that process's memory, and gives what it finds to whoever asks. */
TEST_F(lifetime, inherited_descriptor_moves_parent)
{
	void *mem = map(33, RW, PRIVATE);
	void *data = map(33, RW, PRIVATE);
	pid_t pid;

	fill(mem, 33, OLD_DATA);
	pid = start_child();
	if (!pid) {
		int fd = device_open(variant->unit);

		fill(mem, 33, OTHER_DATA);
		ASSERT_EQ(0, to_device(self->fd, mem, data, 33));
		ASSERT_TRUE(holds(data, 0, 33, OLD_DATA));
		ASSERT_EQ(0, pages_on_device(fd, mem, 33));
		ASSERT_EQ(0, to_device(fd, mem, data, 33));
		ASSERT_TRUE(holds(data, 0, 33, OTHER_DATA));
		ASSERT_EQ(3, to_system(self->fd, mem, 3));
		ASSERT_EQ(33, pages_on_device(fd, mem, 33));
		fill(data, 3, NEW_DATA);
		ASSERT_EQ(0, device_write(self->fd, page_at(mem, 30), data, 3));
		ASSERT_TRUE(holds(mem, 0, 33, OTHER_DATA));
		_exit(0);
	}
	ASSERT_EQ(0, wait_child(pid));
	/* Those that were the child's too are copied when they are written. */
	EXPECT_GE(30, pages_on_device(self->fd, mem, 33));
	EXPECT_LT(0, pages_on_device(self->fd, mem, 33));
	EXPECT_TRUE(holds(mem, 0, 30, OLD_DATA));
	EXPECT_TRUE(holds(page_at(mem, 30), 0, 3, NEW_DATA));
}

/*
 * The mirrored memory is gone, from the device too: what it had of @mem, where
 * this process has memory of its own, and of any other.
 */
static void expect_outlived(struct __test_metadata *_metadata, int fd, void *mem)
{
	void *data = map(2, RW, PRIVATE);
	size_t i;

	fill(mem, 2, OLD_DATA);
	for (i = 0; i < ARRAY_SIZE(transfers); i++) {
		int ret = device_do(fd, transfers[i], mem, data, 2);

		EXPECT_EQ(-EFAULT, ret) {
			TH_LOG("command %#lx", transfers[i]);
		}
	}
	EXPECT_EQ(-EINVAL, device_snapshot(fd, mem, data, 2));
	EXPECT_EQ(-EINVAL, to_device(fd, mem, data, 2));
	EXPECT_EQ(-EINVAL, to_system(fd, mem, 2));
	EXPECT_EQ(-EINVAL, device_exclusive(fd, mem, data, 2));
	EXPECT_TRUE(holds(mem, 0, 2, OLD_DATA) && is_zero(data, 2));
}

TEST_F(lifetime, descriptor_outlives_its_memory)
{
	struct gate orphaned = gate(), done = gate();
	void *mem = map(33, RW, PRIVATE);
	void *data = map(33, RW, PRIVATE);
	pid_t pid = start_child();

	if (!pid) {
		int fd = device_open(variant->unit);

		fill(mem, 33, OLD_DATA);
		if (start_child()) {
			/* Now, as a fork protects the pages and so invalidates them. */
			ASSERT_EQ(0, device_read(fd, mem, data, 33));
			_exit(0);
		}
		ASSERT_TRUE(gate_wait(&orphaned));
		expect_outlived(_metadata, fd, mem);
		ASSERT_EQ(0, close(fd));
		gate_open(&done);
		_exit(0);
	}
	ASSERT_EQ(0, wait_child(pid));
	gate_open(&orphaned);
	ASSERT_TRUE(gate_wait(&done));
}

/* The memory goes away while another process has the device work on it. */
TEST_F(lifetime, memory_ends_under_transfer)
{
	struct gate opened = gate(), working = gate(), done = gate();
	void *mem = map(MANY_PAGES, RW, PRIVATE);
	void *data = map(MANY_PAGES, RW, PRIVATE);
	pid_t pid = start_child();

	if (!pid) {
		int ret, fd = device_open(variant->unit);

		fill(mem, MANY_PAGES, OLD_DATA);
		if (start_child()) {
			gate_open(&opened);
			pause();
		}
		while (!(ret = device_read(fd, mem, data, MANY_PAGES))) {
			ASSERT_TRUE(holds(data, 0, MANY_PAGES, OLD_DATA));
			gate_open(&working);
		}
		ASSERT_EQ(-EFAULT, ret);
		expect_outlived(_metadata, fd, mem);
		gate_open(&done);
		_exit(0);
	}
	ASSERT_TRUE(gate_wait(&opened));
	ASSERT_TRUE(gate_wait(&working));
	kill(pid, SIGKILL);
	wait_child(pid);
	ASSERT_TRUE(gate_wait(&done));
}

/* The memory goes away while another process has it moved to and fro. */
TEST_F(lifetime, memory_ends_under_migration)
{
	struct gate opened = gate(), working = gate(), done = gate();
	void *mem = map(MANY_PAGES, RW, PRIVATE);
	void *data = map(MANY_PAGES, RW, PRIVATE);
	pid_t pid = start_child();

	if (!pid) {
		int ret, fd = device_open(variant->unit);

		if (start_child()) {
			fill(mem, MANY_PAGES, OLD_DATA);
			gate_open(&opened);
			pause();
		}
		ASSERT_TRUE(gate_wait(&opened));
		while (!(ret = to_device(fd, mem, data, MANY_PAGES))) {
			ASSERT_TRUE(holds(data, 0, MANY_PAGES, OLD_DATA));
			gate_open(&working);
			to_system(fd, mem, MANY_PAGES / 2);
		}
		/* Some of the pages may have gone, and others with the whole. */
		ASSERT_TRUE(ret == -EINVAL || ret == -ENOENT);
		ASSERT_EQ(-EINVAL, to_device(fd, mem, data, MANY_PAGES));
		expect_outlived(_metadata, fd, mem);
		gate_open(&done);
		_exit(0);
	}
	ASSERT_TRUE(gate_wait(&working));
	kill(pid, SIGKILL);
	wait_child(pid);
	ASSERT_TRUE(gate_wait(&done));
}

/* The mirror ends in another process than it began in, while its memory lives on. */
TEST_F(lifetime, closes_in_another_process)
{
	void *mem = map(33, RW, PRIVATE);
	void *data = map(33, RW, PRIVATE);
	int i;

	fill(mem, 33, OLD_DATA);
	for (i = 0; i < 10; i++) {
		struct gate closed = gate();
		pid_t pid = start_child();

		if (!pid) {
			ASSERT_TRUE(gate_wait(&closed));
			ASSERT_EQ(0, device_read(self->fd, mem, data, 33));
			ASSERT_TRUE(holds(data, 0, 33, OLD_DATA));
			ASSERT_EQ(0, close(self->fd));
			_exit(0);
		}
		EXPECT_EQ(0, close(self->fd));
		gate_open(&closed);
		/* The old mirror may end before, after or while the new one begins. */
		self->fd = device_open(variant->unit);
		ASSERT_LE(0, self->fd);
		ASSERT_EQ(0, device_read(self->fd, mem, data, 33));
		ASSERT_EQ(0, wait_child(pid));
		ASSERT_TRUE(holds(data, 0, 33, OLD_DATA));
		ASSERT_TRUE(device_works(self->fd));
		close(closed.in);
		close(closed.out);
	}
}

static void *open_and_close(void *arg)
{
	void *mem = map(3, RW, PRIVATE);
	void *data = map(3, RW, PRIVATE);
	intptr_t failures = 0;
	int i, unit = *(int *)arg;

	for (i = 0; i < 50; i++) {
		int fd = device_open((unit + i) % 2);

		fill(mem, 3, i + 1);
		failures += fd < 0 || device_read(fd, mem, data, 3) || !holds(data, 0, 3, i + 1);
		advise(mem, 3, MADV_DONTNEED);
		failures += device_read(fd, mem, data, 3) || !is_zero(data, 3);
		failures += !!close(fd);
	}
	return (void *)failures;
}

/*
 * What mirrors of one memory share begins with the first and ends with the last,
 * again and again: no descriptor stays open meanwhile.
 */
TEST_F_TIMEOUT(lifetime, threads_open_and_close, 120)
{
	int unit = variant->unit;
	pthread_t threads[4];
	void *failures;
	size_t i;

	EXPECT_EQ(0, close(self->fd));
	for (i = 0; i < ARRAY_SIZE(threads); i++)
		threads[i] = start_thread(open_and_close, &unit);
	for (i = 0; i < ARRAY_SIZE(threads); i++) {
		pthread_join(threads[i], &failures);
		EXPECT_EQ(NULL, failures);
	}
	EXPECT_TRUE(module_is_released());
	self->fd = device_open(variant->unit);
	EXPECT_TRUE(device_works(self->fd));
}

TEST_F(lifetime, many_processes_open_at_once)
{
	struct gate opened = gate(), all = gate();
	pid_t pid[32];
	size_t i;

	EXPECT_EQ(0, close(self->fd));
	for (i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = start_child();
		if (!pid[i]) {
			int fd = device_open(i % 2);

			ASSERT_LE(0, fd);
			gate_open(&opened);
			/* All together when the other end is closed. */
			gate_wait(&all);
			ASSERT_TRUE(device_works(fd));
			/* Half of them leave that to their end. */
			_exit(i % 4 < 2 ? close(fd) : 0);
		}
	}
	for (i = 0; i < ARRAY_SIZE(pid); i++)
		ASSERT_TRUE(gate_wait(&opened));
	close(all.in);
	for (i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_EQ(0, wait_child(pid[i]));
	EXPECT_TRUE(module_is_released());
	self->fd = device_open(variant->unit);
	EXPECT_TRUE(device_works(self->fd));
}

/* What the image that is executed below does with the descriptor it is left. */
static int run_after_exec(int fd)
{
	struct __test_metadata meta = { .name = "after_exec" }, *_metadata = &meta;

	expect_outlived(_metadata, fd, map(2, RW, PRIVATE));
	return meta.exit_code;
}

TEST_F(lifetime, descriptor_stays_open_over_exec)
{
	pid_t pid = start_child();

	if (!pid) {
		void *mem = map(33, RW, PRIVATE);
		char number[16];

		/* The memory that this process is about to leave behind. */
		int fd = device_open(variant->unit);

		ASSERT_EQ(0, device_write(fd, mem, mem, 33));
		snprintf(number, sizeof(number), "%d", fd);
		execl("/proc/self/exe", "gpu_mirror_lifetime", "--after-exec", number, NULL);
		die("execl");
	}
	EXPECT_EQ(0, wait_child(pid));
}

/* A command on fresh memory and with fresh data, for traps to be set there. */
static struct command prepare(int fd, unsigned long request, size_t npages)
{
	return (struct command) {
		.fd = fd,
		.request = request,
		.addr = map(npages, RW, PRIVATE),
		.ptr = map(npages, RW, PRIVATE),
		.npages = npages,
	};
}

TEST_F(lifetime, closes_under_transfer)
{
	struct command c = prepare(self->fd, HMM_DMIRROR_READ_UNLOCKED, 3);
	struct trap trap;

	if (!trap_set(&trap, c.addr, 3))
		SKIP(return, NO_USERFAULTFD);
	start_into_trap(&c, &trap);
	EXPECT_EQ(0, close(self->fd));
	self->fd = -1;
	trap_release(&trap, OLD_DATA);
	EXPECT_EQ(0, command_end(&c));
	EXPECT_TRUE(holds(c.ptr, 0, 3, OLD_DATA));
	EXPECT_EQ(-EBADF, device_read(c.fd, c.addr, c.ptr, 3));
}

/* The end of the command is the end of the descriptor, which empties the device. */
TEST_F(lifetime, closes_under_migration)
{
	struct command c = prepare(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, 3);
	struct counters device = device_counters(variant->unit);
	struct trap trap;

	fill(c.addr, 3, OLD_DATA);
	if (!trap_set(&trap, c.ptr, 3))
		SKIP(return, NO_USERFAULTFD);
	start_into_trap(&c, &trap);
	EXPECT_EQ(0, close(self->fd));
	trap_release(&trap, NEW_DATA);
	EXPECT_EQ(0, command_end(&c));
	EXPECT_TRUE(holds(c.ptr, 0, 3, OLD_DATA));
	if (counters_exist(&device))
		EXPECT_EQ(0, memory_used(variant->unit));
	self->fd = device_open(variant->unit);
	EXPECT_EQ(0, pages_on_device(self->fd, c.addr, 3));
	EXPECT_TRUE(holds(c.addr, 0, 3, OLD_DATA));
}

/* A fault that sleeps reads nothing that is gone by the time it ends. */
TEST_F(lifetime, fault_sees_change_while_it_sleeps)
{
	struct command c = prepare(self->fd, HMM_DMIRROR_READ_UNLOCKED, 4);
	struct trap trap;

	fill(c.addr, 3, OLD_DATA);
	if (!trap_set(&trap, page_at(c.addr, 3), 1))
		SKIP(return, NO_USERFAULTFD);
	start_into_trap(&c, &trap);
	map_at(c.addr, 1, RW);
	fill(c.addr, 1, NEW_DATA);
	protect(page_at(c.addr, 1), 1, PROT_READ);
	advise(page_at(c.addr, 2), 1, MADV_DONTNEED);
	trap_release(&trap, OTHER_DATA);
	EXPECT_EQ(0, command_end(&c));
	EXPECT_TRUE(page_holds(c.ptr, 0, NEW_DATA) && page_holds(c.ptr, 1, OLD_DATA));
	EXPECT_TRUE(is_zero(page_at(c.ptr, 2), 1));
	EXPECT_TRUE(page_holds(page_at(c.ptr, 3), 0, OTHER_DATA));
}

/* Memory that user space has yet to provide is waited for, whatever the command. */
TEST_F(lifetime, waits_for_user_space)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(transfers); i++) {
		struct command c = prepare(self->fd, transfers[i], 3);
		struct trap trap;
		bool written;

		fill(c.ptr, 3, NEW_DATA);
		if (!trap_set(&trap, c.addr, 3))
			SKIP(return, NO_USERFAULTFD);
		start_into_trap(&c, &trap);
		trap_release(&trap, OLD_DATA);
		ASSERT_EQ(0, command_end(&c));
		written = transfers[i] == HMM_DMIRROR_WRITE;
		EXPECT_TRUE(holds(written ? c.addr : c.ptr, 0, 3, written ? NEW_DATA : OLD_DATA));
	}
}

/*
 * A transfer that sleeps on its data does not keep the memory of a process that
 * ended. The grandchild looks; its success is the gate that it opens.
 */
TEST_F(lifetime, data_does_not_hold_memory)
{
	struct gate good = gate();

	if (!start_child()) {
		struct gate trapped = gate(), ended = gate();
		struct command c = prepare(device_open(variant->unit), HMM_DMIRROR_READ, 1);
		struct trap trap;
		unsigned char prot;

		fill(c.addr, 1, OLD_DATA);
		if (start_child()) {
			close(good.in);
			/* Memory goes before descriptors, so the end of @ended comes after it. */
			_exit(!gate_wait(&trapped));
		}
		if (!trap_set(&trap, c.ptr, 1))
			_exit(1);
		start_into_trap(&c, &trap);
		gate_open(&trapped);
		if (gate_wait(&ended) || device_snapshot(c.fd, c.addr, &prot, 1) != -EINVAL)
			_exit(1);
		trap_release(&trap, NEW_DATA);
		if (!command_end(&c))
			gate_open(&good);
		_exit(0);
	}
	EXPECT_TRUE(gate_wait(&good));
}

/*
 * The opener ends while the device faults in its memory for another process. The
 * memory stays for that, and the device is the one to give it up.
 */
TEST_F(lifetime, device_is_the_last_user_of_memory)
{
	struct gate good = gate();

	if (!start_child()) {
		struct command c = prepare(device_open(variant->unit), HMM_DMIRROR_READ, 3);
		struct gate trapped = gate(), ended = gate();
		struct trap trap;

		if (!trap_set(&trap, c.addr, 3))
			_exit(1);
		if (start_child()) {
			close(good.in);
			/* As above. */
			_exit(!gate_wait(&trapped));
		}
		start_into_trap(&c, &trap);
		gate_open(&trapped);
		if (gate_wait(&ended))
			_exit(1);
		trap_release(&trap, OLD_DATA);
		ASSERT_EQ(0, command_end(&c));
		ASSERT_TRUE(holds(c.ptr, 0, 3, OLD_DATA));
		expect_outlived(_metadata, c.fd, c.addr);
		gate_open(&good);
		_exit(0);
	}
	EXPECT_TRUE(gate_wait(&good));
}

/* A transfer that sleeps on its data holds up nobody who changes the memory. */
TEST_F(lifetime, invalidation_does_not_wait_for_data)
{
	const unsigned long requests[] = { HMM_DMIRROR_READ, HMM_DMIRROR_WRITE };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(requests); i++) {
		struct command c = prepare(self->fd, requests[i], 2);
		struct trap trap;

		if (!trap_set(&trap, c.ptr, 2))
			SKIP(return, NO_USERFAULTFD);
		fill(c.addr, 2, OLD_DATA);
		start_into_trap(&c, &trap);
		fill(c.addr, 2, OTHER_DATA);
		move(c.addr, 2, page_at(map(3, RW, PRIVATE), 1));
		map_at(c.addr, 2, RW);
		trap_release(&trap, NEW_DATA);
		ASSERT_EQ(0, command_end(&c));
		if (requests[i] == HMM_DMIRROR_WRITE) {
			EXPECT_TRUE(holds(c.addr, 0, 2, NEW_DATA));
		} else {
			EXPECT_TRUE(is_zero(c.addr, 2));
			EXPECT_FALSE(page_holds(c.ptr, 0, NEW_DATA));
		}
	}
}

enum ending {
	BY_SIGNAL,
	BY_EXIT,
};

/* Ends a process whose thread is inside the command, asleep in a trap. */
static void end_in_trap(struct __test_metadata *_metadata, int unit, unsigned long request,
			bool trap_is_data, enum ending ending)
{
	struct gate trapped = gate();
	pid_t pid = start_child();

	if (!pid) {
		struct command c = prepare(device_open(unit), request, 3);
		struct trap trap;

		if (!trap_set(&trap, trap_is_data ? c.ptr : c.addr, 3))
			die("userfaultfd");
		start_into_trap(&c, &trap);
		gate_open(&trapped);
		if (ending == BY_EXIT)
			_exit(0);
		pause();
	}
	ASSERT_TRUE(gate_wait(&trapped));
	if (ending == BY_SIGNAL)
		kill(pid, SIGKILL);
	EXPECT_EQ(ending == BY_SIGNAL ? SIGKILL : 0, wait_child(pid));
	close(trapped.out);
}

TEST_F(lifetime, process_ends_in_transfer)
{
	struct trap trap;
	int i;

	if (!trap_set(&trap, map(1, RW, PRIVATE), 1))
		SKIP(return, NO_USERFAULTFD);
	for (i = 0; i < 8; i++) {
		enum ending ending = i % 2 ? BY_EXIT : BY_SIGNAL;

		end_in_trap(_metadata, variant->unit, HMM_DMIRROR_READ, true, ending);
		end_in_trap(_metadata, variant->unit, HMM_DMIRROR_WRITE, true, ending);
		end_in_trap(_metadata, variant->unit, HMM_DMIRROR_READ_UNLOCKED, false, ending);
		end_in_trap(_metadata, variant->unit, HMM_DMIRROR_MIGRATE_TO_DEV, true, ending);
		end_in_trap(_metadata, variant->unit, HMM_DMIRROR_EXCLUSIVE, true, ending);
	}
	EXPECT_TRUE(device_works(self->fd));
}

TEST_F(lifetime, process_is_killed_between_transfers)
{
	int i;

	for (i = 0; i < 10; i++) {
		struct gate working = gate();
		pid_t pid = start_child();

		if (!pid) {
			void *mem = map(MANY_PAGES, RW, PRIVATE);
			void *data = map(MANY_PAGES, RW, PRIVATE);
			int fd = device_open(variant->unit);

			for (;;) {
				ASSERT_EQ(0, device_read(fd, mem, data, MANY_PAGES));
				gate_open(&working);
				ASSERT_EQ(0, device_write(fd, mem, data, MANY_PAGES));
				advise(mem, MANY_PAGES, MADV_DONTNEED);
			}
		}
		ASSERT_TRUE(gate_wait(&working));
		kill(pid, SIGKILL);
		EXPECT_EQ(SIGKILL, wait_child(pid));
		close(working.out);
	}
	EXPECT_TRUE(device_works(self->fd));
}

/* Wherever a move stands then, the process's pages are not left on the device. */
TEST_F(lifetime, process_is_killed_while_it_moves)
{
	struct counters device = device_counters(variant->unit);
	int i;

	for (i = 0; i < 10; i++) {
		struct gate working = gate();
		pid_t pid = start_child();

		if (!pid) {
			void *mem = map(MANY_PAGES, RW, PRIVATE);
			void *data = map(MANY_PAGES, RW, PRIVATE);
			int fd = i % 2 ? self->fd : device_open(variant->unit);

			fill(mem, MANY_PAGES, OLD_DATA);
			for (;;) {
				to_device(fd, mem, data, MANY_PAGES);
				gate_open(&working);
				device_exclusive(fd, mem, data, 3);
				ASSERT_TRUE(holds(mem, 0, MANY_PAGES / 2, OLD_DATA));
				to_system(fd, mem, MANY_PAGES);
			}
		}
		ASSERT_TRUE(gate_wait(&working));
		kill(pid, SIGKILL);
		EXPECT_EQ(SIGKILL, wait_child(pid));
		if (counters_exist(&device))
			EXPECT_EQ(0, memory_used(variant->unit));
		close(working.out);
	}
	EXPECT_TRUE(device_works(self->fd));
}

TEST_F(lifetime, process_exits_with_live_mirror)
{
	pid_t pid = start_child();

	if (!pid) {
		ASSERT_TRUE(device_works(device_open(variant->unit)));
		ASSERT_TRUE(device_works(device_open(variant->unit)));
		_exit(0);
	}
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_TRUE(device_works(self->fd));
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--after-exec"))
		return run_after_exec(atoi(argv[2]));
	return test_harness_run(argc, argv);
}
