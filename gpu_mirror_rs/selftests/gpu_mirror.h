/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of the GPU mirror share: the device's commands, memory of
 * known contents, and ways to know where another task stands without sleeping.
 */
#ifndef _GPU_MIRROR_H
#define _GPU_MIRROR_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <linux/userfaultfd.h>

#include "test_hmm_uapi.h"

#define RW		(PROT_READ | PROT_WRITE)
#define PRIVATE		(MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED		(MAP_SHARED | MAP_ANONYMOUS)

/* Several times what a driver would copy at once, and not a multiple of it. */
#define MANY_PAGES	1281

/* Tags of contents, for tests that need no more of them. */
#define OLD_DATA	1
#define NEW_DATA	2
#define OTHER_DATA	3

#define UNTOUCHED	0x6e6f7420796f7572ULL

static inline size_t page_size(void)
{
	static size_t size;

	if (!size)
		size = sysconf(_SC_PAGESIZE);
	return size;
}

static inline void *page_at(const void *mem, size_t page)
{
	return (char *)mem + page * page_size();
}

/* In nanoseconds. */
static inline __u64 now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

/* For failures of the machine, not of the driver. */
static inline void die(const char *what)
{
	fprintf(stderr, "# %s: %s\n", what, strerror(errno));
	abort();
}

static inline int device_open(int unit)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/dev/hmm_dmirror%d", unit);
	fd = open(path, O_RDWR);
	if (fd < 0)
		fprintf(stderr, "# cannot open %s: %s; is the driver loaded?\n", path,
			strerror(errno));
	return fd;
}

/*
 * One command of the device: 0 or -errno. The driver answers in @cmd when it
 * succeeds, and only then: -EBADMSG tells of one that does otherwise.
 */
static inline int device_command(int fd, unsigned long request, const void *addr, const void *ptr,
				 __u64 npages, struct hmm_dmirror_cmd *cmd)
{
	const struct hmm_dmirror_cmd asked = {
		.addr = (uintptr_t)addr,
		.ptr = (uintptr_t)ptr,
		.npages = npages,
		.cpages = UNTOUCHED,
		.faults = UNTOUCHED,
	};
	int err;

	*cmd = asked;
	if (!ioctl(fd, request, cmd))
		return cmd->cpages == UNTOUCHED || cmd->faults == UNTOUCHED ? -EBADMSG : 0;
	err = errno;
	return memcmp(cmd, &asked, sizeof(asked)) ? -EBADMSG : -err;
}

/* A command that succeeds has worked on every page that it was asked for. */
static inline int device_do(int fd, unsigned long request, const void *addr, const void *ptr,
			    __u64 npages)
{
	struct hmm_dmirror_cmd cmd;
	int ret = device_command(fd, request, addr, ptr, npages, &cmd);

	return !ret && cmd.cpages != npages ? -EBADMSG : ret;
}

static const unsigned long transfers[] = {
	HMM_DMIRROR_READ,
	HMM_DMIRROR_READ_UNLOCKED,
	HMM_DMIRROR_WRITE,
};

static inline int device_read(int fd, const void *addr, void *to, __u64 npages)
{
	return device_do(fd, HMM_DMIRROR_READ, addr, to, npages);
}

static inline int device_read_unlocked(int fd, const void *addr, void *to, __u64 npages)
{
	return device_do(fd, HMM_DMIRROR_READ_UNLOCKED, addr, to, npages);
}

static inline int device_write(int fd, void *addr, const void *from, __u64 npages)
{
	return device_do(fd, HMM_DMIRROR_WRITE, addr, from, npages);
}

static inline int device_snapshot(int fd, const void *addr, unsigned char *prot, __u64 npages)
{
	return device_do(fd, HMM_DMIRROR_SNAPSHOT, addr, prot, npages);
}

static inline void *map_file(size_t npages, int prot, int flags, int fd)
{
	void *mem = mmap(NULL, npages * page_size(), prot, flags, fd, 0);

	if (mem == MAP_FAILED)
		die("mmap");
	return mem;
}

static inline void *map(size_t npages, int prot, int flags)
{
	return map_file(npages, prot, flags, -1);
}

/* Fresh memory at an address whose mapping, if any, goes away. */
static inline void map_at(void *addr, size_t npages, int prot)
{
	if (mmap(addr, npages * page_size(), prot, PRIVATE | MAP_FIXED, -1, 0) != addr)
		die("mmap");
}

static inline void unmap(void *addr, size_t npages)
{
	if (munmap(addr, npages * page_size()))
		die("munmap");
}

static inline void protect(void *addr, size_t npages, int prot)
{
	if (mprotect(addr, npages * page_size(), prot))
		die("mprotect");
}

static inline void advise(void *addr, size_t npages, int advice)
{
	if (madvise(addr, npages * page_size(), advice))
		die("madvise");
}

/* Moves pages to an address, in one step for whoever looks there. */
static inline void move(void *from, size_t npages, void *to)
{
	size_t size = npages * page_size();

	if (mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		die("mremap");
}

static inline int tmpfs_file(size_t npages)
{
	int fd = memfd_create("gpu_mirror", 0);

	if (fd < 0 || ftruncate(fd, npages * page_size()))
		die("memfd_create");
	return fd;
}

/* What a huge page covers. */
#define HUGE_PAGES	512

/*
 * Memory at the start of an area that is aligned as a huge page is. What is
 * around it is not accessible, lest other mappings of the process join it.
 */
static inline void *map_aligned(size_t npages)
{
	size_t size = HUGE_PAGES * page_size();
	void *around = map(npages + 2 * HUGE_PAGES, PROT_NONE, PRIVATE | MAP_NORESERVE);
	void *mem = (void *)(((uintptr_t)around + size) & -size);

	map_at(mem, npages, RW);
	return mem;
}

/* A huge page that is mapped as one, or NULL. */
static inline void *map_thp(void)
{
	void *mem = map_aligned(HUGE_PAGES);
	size_t huge = 0;
	char line[128];
	FILE *file;

	if (madvise(mem, HUGE_PAGES * page_size(), MADV_HUGEPAGE))
		return NULL;
	*(char *)mem = 1;
	file = fopen("/proc/self/smaps_rollup", "r");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "AnonHugePages: %zu", &huge) == 1)
			break;
	if (file)
		fclose(file);
	return huge ? mem : NULL;
}

#define NO_THP "no transparent huge page: not configured, not enabled or no memory"

/*
 * Contents: each word of a page tells whose data it is and where it belongs,
 * so that neither a stale page nor a misplaced one passes for the right one.
 */
static inline __u64 word_of(__u64 tag, size_t page, size_t word)
{
	return tag << 40 | page << 16 | word;
}

static inline void fill(void *mem, size_t npages, __u64 tag)
{
	size_t words = page_size() / sizeof(__u64);
	size_t page, word;
	__u64 *p = mem;

	for (page = 0; page < npages; page++)
		for (word = 0; word < words; word++)
			*p++ = word_of(tag, page, word);
}

static inline bool page_holds(const void *mem, size_t page, __u64 tag)
{
	size_t words = page_size() / sizeof(__u64);
	const __u64 *p = page_at(mem, page);
	size_t word;

	for (word = 0; word < words; word++)
		if (p[word] != word_of(tag, page, word))
			return false;
	return true;
}

static inline bool holds(const void *mem, size_t first, size_t end, __u64 tag)
{
	for (; first < end; first++)
		if (!page_holds(mem, first, tag))
			return false;
	return true;
}

/* Whole pages of the one or of the other, in any order. */
static inline bool holds_either(const void *mem, size_t first, size_t end, __u64 tag, __u64 other)
{
	for (; first < end; first++)
		if (!page_holds(mem, first, tag) && !page_holds(mem, first, other))
			return false;
	return true;
}

static inline bool is_zero(const void *mem, size_t npages)
{
	const char *p = mem;

	return !p[0] && !memcmp(p, p + 1, npages * page_size() - 1);
}

/* Whether the device reads and writes memory that it has never seen before. */
static inline bool device_works(int fd)
{
	void *mem = map(33, RW, PRIVATE);
	void *data = map(33, RW, PRIVATE);

	fill(mem, 33, OLD_DATA);
	if (device_read(fd, mem, data, 33) || !holds(data, 0, 33, OLD_DATA))
		return false;
	fill(data, 33, NEW_DATA);
	if (device_write(fd, mem, data, 33) || !holds(mem, 0, 33, NEW_DATA))
		return false;
	unmap(mem, 33);
	unmap(data, 33);
	return true;
}

/*
 * Device memory. The kernel leaves a page where it is that somebody holds just
 * then, such as reclaim or compaction, so that another try may be needed.
 */
#define MIGRATION_TRIES	10

static inline int to_device(int fd, const void *mem, void *data, size_t npages)
{
	int tries = MIGRATION_TRIES, ret;

	do {
		ret = device_do(fd, HMM_DMIRROR_MIGRATE_TO_DEV, mem, data, npages);
	} while (ret == -ENOENT && --tries);
	return ret;
}

/* Gives the number of pages that came back, or -errno. */
static inline long to_system(int fd, const void *mem, size_t npages)
{
	struct hmm_dmirror_cmd cmd;
	int ret = device_command(fd, HMM_DMIRROR_MIGRATE_TO_SYS, mem, NULL, npages, &cmd);

	return ret ?: (long)cmd.cpages;
}

/* The commands that have no range; they are given one all the same. */
static inline int device_set(int fd, unsigned long request, __u64 value)
{
	struct hmm_dmirror_cmd cmd;

	return device_command(fd, request, NULL, NULL, value, &cmd);
}

/* The device's next allocation for a migration fails. */
static inline int fail_next_allocation(int fd)
{
	return device_set(fd, HMM_DMIRROR_FLAGS, HMM_DMIRROR_FLAG_FAIL_ALLOC);
}

/* Everything that the device has in its memory goes back. */
static inline int device_release(int fd)
{
	return device_set(fd, HMM_DMIRROR_RELEASE, 1);
}

static inline int device_exclusive(int fd, const void *mem, void *data, size_t npages)
{
	return device_do(fd, HMM_DMIRROR_EXCLUSIVE, mem, data, npages);
}

/* 0 if the device has no page of these for itself. */
static inline int check_exclusive(int fd, const void *mem, size_t npages)
{
	struct hmm_dmirror_cmd cmd;

	return device_command(fd, HMM_DMIRROR_CHECK_EXCLUSIVE, mem, NULL, npages, &cmd);
}

/* What a snapshot says of where a page is. */
#define PLACE_BITS	0x70

/* How many pages are where the snapshot calls it @place or @other. */
static inline size_t count_pages(int fd, const void *mem, size_t npages, int place, int other)
{
	unsigned char *prot = malloc(npages);
	size_t n = 0, i;

	if (!prot || device_snapshot(fd, mem, prot, npages))
		die("snapshot");
	for (i = 0; i < npages; i++) {
		int bits = prot[i] & PLACE_BITS;

		n += prot[i] != HMM_DMIRROR_PROT_ERROR && (bits == place || bits == other);
	}
	free(prot);
	return n;
}

static inline size_t pages_on_device(int fd, const void *mem, size_t npages)
{
	return count_pages(fd, mem, npages, HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL,
			   HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL);
}

/* The first two devices have memory that the CPU cannot reach, the others have. */
static inline bool is_coherent(int unit)
{
	return unit >= 2;
}

static inline bool device_exists(int unit)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/hmm_dmirror%d", unit);
	return !access(path, F_OK);
}

#define NO_COHERENT "no coherent devices: loaded without spm_addr_dev0 and spm_addr_dev1"

/* A gate that one process opens for another, and that fails if it dies before. */
struct gate {
	int out;
	int in;
};

static inline struct gate gate(void)
{
	int fd[2];

	if (pipe(fd))
		die("pipe");
	return (struct gate){ .out = fd[0], .in = fd[1] };
}

static inline void gate_open(struct gate *gate)
{
	if (write(gate->in, "", 1) != 1)
		die("write to a pipe");
}

static inline bool gate_wait(struct gate *gate)
{
	char byte;

	if (gate->in >= 0)
		close(gate->in);
	gate->in = -1;
	return read(gate->out, &byte, 1) == 1;
}

/* The same, but it fails too if the gate is shut for so long. */
static inline bool gate_wait_for(struct gate *gate, int milliseconds)
{
	struct pollfd out = { .fd = gate->out, .events = POLLIN };

	return poll(&out, 1, milliseconds) == 1 && gate_wait(gate);
}

static inline pid_t start_child(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	return pid;
}

static inline int wait_child(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	return status;
}

static inline pthread_t start_thread(void *(*run)(void *), void *arg)
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, run, arg);
	if (errno)
		die("pthread_create");
	return thread;
}

/* What threads tell one another. */
static inline __u64 load(__u64 *value)
{
	return __atomic_load_n(value, __ATOMIC_SEQ_CST);
}

static inline void store(__u64 *value, __u64 new)
{
	__atomic_store_n(value, new, __ATOMIC_SEQ_CST);
}

static inline bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return written;
}

/*
 * Memory that holds up whoever touches it first, in the kernel too, until it is
 * filled: a test then knows that an ioctl is under way, and where it stands.
 */
#define NO_USERFAULTFD "no userfaultfd: not configured or not permitted"

struct trap {
	int uffd;
	void *mem;
	size_t npages;
};

static inline bool trap_set(struct trap *trap, void *mem, size_t npages)
{
	struct uffdio_register reg = {
		.range.start = (uintptr_t)mem,
		.range.len = npages * page_size(),
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_api api = { .api = UFFD_API };

	trap->uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	if (trap->uffd < 0)
		return false;
	trap->mem = mem;
	trap->npages = npages;
	if (ioctl(trap->uffd, UFFDIO_API, &api) || ioctl(trap->uffd, UFFDIO_REGISTER, &reg))
		die("userfaultfd");
	return true;
}

static inline void trap_wait(struct trap *trap)
{
	struct uffd_msg msg;

	if (read(trap->uffd, &msg, sizeof(msg)) != sizeof(msg))
		die("read from userfaultfd");
}

static inline void trap_release(struct trap *trap, __u64 tag)
{
	void *from = map(trap->npages, RW, PRIVATE);
	struct uffdio_copy copy = {
		.dst = (uintptr_t)trap->mem,
		.src = (uintptr_t)from,
		.len = trap->npages * page_size(),
	};

	fill(from, trap->npages, tag);
	if (ioctl(trap->uffd, UFFDIO_COPY, &copy))
		die("UFFDIO_COPY");
	unmap(from, trap->npages);
}

/* A command in a thread of its own. */
struct command {
	int fd;
	unsigned long request;
	void *addr;
	void *ptr;
	size_t npages;
	int ret;
	pthread_t thread;
};

static inline void *command_run(void *arg)
{
	struct command *c = arg;

	c->ret = device_do(c->fd, c->request, c->addr, c->ptr, c->npages);
	return NULL;
}

static inline void command_start(struct command *c)
{
	c->thread = start_thread(command_run, c);
}

/* Starts @c, whose data or memory is in @trap, and returns when it is in there. */
static inline void start_into_trap(struct command *c, struct trap *trap)
{
	command_start(c);
	trap_wait(trap);
}

static inline int command_end(struct command *c)
{
	pthread_join(c->thread, NULL);
	return c->ret;
}

/*
 * What the driver counts, for each device and below that for each mirror, in a
 * directory that is named for the process that opened it and a number.
 */
#define DRIVER		"gpu_mirror_rs"
#define NO_COUNTERS	"no counters: no debugfs, or not the driver " DRIVER

struct counters {
	char dir[96];
};

static inline struct counters device_counters(int unit)
{
	struct counters counters;

	snprintf(counters.dir, sizeof(counters.dir), "/sys/kernel/debug/" DRIVER "/hmm_dmirror%d",
		 unit);
	return counters;
}

static inline bool counters_exist(const struct counters *counters)
{
	return !access(counters->dir, F_OK);
}

static inline __u64 counter(const struct counters *counters, const char *name)
{
	char path[128], text[32] = "";
	int fd;

	snprintf(path, sizeof(path), "%s/%s", counters->dir, name);
	fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		die(path);
	close(fd);
	return strtoull(text, NULL, 10);
}

/* Pages of a device's memory that are in use. */
static inline __u64 memory_used(int unit)
{
	struct counters counters = device_counters(unit);

	return counter(&counters, "memory_used");
}

/*
 * How many mirrors a process has opened on a device that are open yet. The
 * newest has the highest number, and its counters go to @newest.
 */
static inline int count_mirrors(int unit, pid_t pid, struct counters *newest)
{
	struct counters device = device_counters(unit);
	unsigned long long number, highest = 0;
	struct dirent *entry;
	int opener, n = 0;
	DIR *dir;

	dir = opendir(device.dir);
	if (!dir)
		die(device.dir);
	while ((entry = readdir(dir))) {
		if (sscanf(entry->d_name, "%d-%llu", &opener, &number) != 2 || opener != pid)
			continue;
		if (!n++ || number > highest)
			highest = number;
	}
	closedir(dir);
	if (n && newest)
		snprintf(newest->dir, sizeof(newest->dir), "%.64s/%d-%llu", device.dir, pid,
			 highest);
	return n;
}

/*
 * Whether nobody uses the driver's module any more. What a mirror leaves behind
 * holds on to it until all callbacks have ended that may have seen it; that is
 * nothing to wait for but by looking again.
 */
static inline bool module_is_released(void)
{
	const struct timespec pause = { .tv_nsec = 10000000 };
	int looks;

	for (looks = 0; looks < 3000; looks++) {
		int fd = open("/sys/module/" DRIVER "/refcnt", O_RDONLY);
		char refs[16] = "";

		if (fd < 0)
			return true;
		if (read(fd, refs, sizeof(refs) - 1) <= 0)
			die("refcnt");
		close(fd);
		if (!atoi(refs))
			return true;
		nanosleep(&pause, NULL);
	}
	return false;
}

#endif /* _GPU_MIRROR_H */
