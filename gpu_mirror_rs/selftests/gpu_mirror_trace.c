// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints of mmu_notifier_helpers, read back: what they say of the
 * faults of the device and of the invalidations of what it mirrors.
 */
#include <sys/mount.h>
#include <sys/stat.h>

#include "kselftest_harness.h"
#include "gpu_mirror.h"
#include "gpu_mirror_chase.h"

#define TRACEFS		"/sys/kernel/tracing"
#define INSTANCE	TRACEFS "/instances/gpu_mirror"
#define SWITCH		INSTANCE "/events/mmu_notifier_helpers/enable"
#define BUFFER		INSTANCE "/trace"

/* No fault crosses such a border: the size of what one leaf maps. */
#define LEAF_SIZE	(2UL << 20)

#define TEXT_SIZE	128
#define TIMEOUT		120

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || close(fd))
		die(path);
}

/*
 * How many events @name tell of an address in the range; @text gets what the
 * last of them says after the address space.
 */
static int events(const char *name, const void *mem, size_t npages, char *text)
{
	unsigned long first = (uintptr_t)mem, last = first + npages * page_size() - 1;
	FILE *buffer = fopen(BUFFER, "r");
	char line[512], tag[32];
	int n = 0;

	if (!buffer)
		die(BUFFER);
	*text = '\0';
	snprintf(tag, sizeof(tag), ": mnh_%s: mm=", name);
	while (fgets(line, sizeof(line), buffer)) {
		char *event = strstr(line, tag), *range;
		unsigned long start, end;

		range = event ? strstr(event, "start=") : NULL;
		if (!range)
			continue;
		if (sscanf(range, "start=%lx end=%lx", &start, &end) != 2)
			die(line);
		if (start > last || end <= first)
			continue;
		range[strcspn(range, "\n")] = '\0';
		snprintf(text, TEXT_SIZE, "%s", range);
		n++;
	}
	fclose(buffer);
	return n;
}

/* What an event of the range says, @rest after the range. */
static const char *says(const void *mem, size_t npages, const char *rest)
{
	static char text[TEXT_SIZE];

	snprintf(text, sizeof(text), "start=%#lx end=%#lx%s%s", (unsigned long)mem,
		 (unsigned long)page_at(mem, npages), *rest ? " " : "", rest);
	return text;
}

#define STRING(x)	#x
#define NUMBER(x)	STRING(x)
#define FAULT(access, result)	"access=" access " result=" result " collisions=0 slow=0"

FIXTURE(trace)
{
	int fd;
	void *mem;
	void *data;
	char text[TEXT_SIZE];
};

FIXTURE_SETUP(trace)
{
	void *area;

	if (access("/sys/module/mmu_notifier_helpers", F_OK))
		SKIP(return, "the driver does not use mmu_notifier_helpers");
	if (access(TRACEFS "/instances", F_OK) && mount("tracefs", TRACEFS, "tracefs", 0, NULL))
		SKIP(return, "no tracefs: not configured or not permitted");
	if (mkdir(INSTANCE, 0700) && errno != EEXIST)
		die(INSTANCE);
	put(SWITCH, "1");
	put(BUFFER, "");

	self->fd = device_open(0);
	ASSERT_LE(0, self->fd);
	/* The first pages of a leaf, with nothing mapped around them. */
	area = map(2 * LEAF_SIZE / page_size(), PROT_NONE, PRIVATE);
	self->mem = (void *)(((uintptr_t)area + LEAF_SIZE - 1) & ~(LEAF_SIZE - 1));
	map_at(self->mem, 4, RW);
	self->data = map(4, RW, PRIVATE);
}

FIXTURE_TEARDOWN(trace)
{
	EXPECT_EQ(0, close(self->fd));
	put(SWITCH, "0");
	EXPECT_EQ(0, rmdir(INSTANCE));
}

TEST_F(trace, fault)
{
	const struct {
		unsigned long request;
		const char *says;
	} cases[] = {
		{ HMM_DMIRROR_READ, FAULT("read", "0") },
		{ HMM_DMIRROR_READ_UNLOCKED, FAULT("read", "0") },
		{ HMM_DMIRROR_WRITE, FAULT("write", "0") },
		{ HMM_DMIRROR_SNAPSHOT, FAULT("look", "0") },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		map_at(self->mem, 4, RW);
		put(BUFFER, "");
		ASSERT_EQ(0, device_do(self->fd, cases[i].request, self->mem, self->data, 4));
		EXPECT_EQ(1, events("fault", self->mem, 4, self->text));
		EXPECT_STREQ(says(self->mem, 4, cases[i].says), self->text);
		EXPECT_EQ(0, events("collision", self->mem, 4, self->text));
		EXPECT_EQ(0, events("slow_path", self->mem, 4, self->text));
	}
}

TEST_F(trace, no_fault_of_what_is_mirrored)
{
	ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, 4));
	put(BUFFER, "");
	ASSERT_EQ(0, device_read(self->fd, self->mem, self->data, 4));
	EXPECT_EQ(0, events("fault", self->mem, 4, self->text));
}

TEST_F(trace, failed_fault)
{
	unmap(self->mem, 4);
	ASSERT_EQ(-EFAULT, device_read(self->fd, self->mem, self->data, 4));
	EXPECT_EQ(1, events("fault", self->mem, 4, self->text));
	EXPECT_STREQ(says(self->mem, 4, FAULT("read", "-" NUMBER(EFAULT))), self->text);

	map_at(self->mem, 4, PROT_READ);
	put(BUFFER, "");
	ASSERT_EQ(-EPERM, device_write(self->fd, self->mem, self->data, 4));
	EXPECT_EQ(1, events("fault", self->mem, 4, self->text));
	EXPECT_STREQ(says(self->mem, 4, FAULT("write", "-" NUMBER(EPERM))), self->text);
}

static void forbid_writing(void *mem)
{
	protect(mem, 2, PROT_READ);
}

static void forget(void *mem)
{
	advise(mem, 2, MADV_DONTNEED);
}

static void take_away(void *mem)
{
	unmap(mem, 2);
}

TEST_F(trace, invalidation)
{
	const struct {
		void (*invalidate)(void *mem);
		const char *says;
	} cases[] = {
		{ take_away, "event=unmap blockable=1" },
		{ forget, "event=clear blockable=1" },
		{ forbid_writing, "event=protection_vma blockable=1" },
	};
	void *part = page_at(self->mem, 1);
	size_t i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		map_at(self->mem, 4, RW);
		ASSERT_EQ(0, device_write(self->fd, self->mem, self->data, 4));
		put(BUFFER, "");
		cases[i].invalidate(part);
		EXPECT_EQ(1, events("invalidate", self->mem, 4, self->text));
		EXPECT_STREQ(says(part, 2, cases[i].says), self->text);
		EXPECT_EQ(0, events("refuse", self->mem, 4, self->text));
	}
}

static struct command read_two_pages(int fd, void *mem, void *data)
{
	return (struct command) {
		.fd = fd,
		.request = HMM_DMIRROR_READ,
		.addr = mem,
		.ptr = data,
		.npages = 2,
	};
}

/* The fault sleeps at its second page while the first one goes away. */
TEST_F(trace, collision)
{
	struct command c = read_two_pages(self->fd, self->mem, self->data);
	struct trap trap;

	fill(self->mem, 1, OLD_DATA);
	if (!trap_set(&trap, page_at(self->mem, 1), 1))
		SKIP(return, NO_USERFAULTFD);
	put(BUFFER, "");
	start_into_trap(&c, &trap);
	advise(self->mem, 1, MADV_DONTNEED);
	trap_release(&trap, NEW_DATA);
	ASSERT_EQ(0, command_end(&c));

	EXPECT_TRUE(is_zero(self->data, 1));
	EXPECT_EQ(1, events("collision", self->mem, 2, self->text));
	EXPECT_STREQ(says(self->mem, 2, "attempt=1"), self->text);
	EXPECT_EQ(1, events("fault", self->mem, 2, self->text));
	EXPECT_STREQ(says(self->mem, 2, "access=read result=0 collisions=1 slow=0"), self->text);
}

/* An invalidation elsewhere disturbs nobody. */
TEST_F(trace, no_collision_elsewhere)
{
	struct command c = read_two_pages(self->fd, self->mem, self->data);
	struct trap trap;

	fill(self->mem, 1, OLD_DATA);
	fill(page_at(self->mem, 2), 1, OTHER_DATA);
	if (!trap_set(&trap, page_at(self->mem, 1), 1))
		SKIP(return, NO_USERFAULTFD);
	put(BUFFER, "");
	start_into_trap(&c, &trap);
	advise(page_at(self->mem, 2), 1, MADV_DONTNEED);
	trap_release(&trap, NEW_DATA);
	ASSERT_EQ(0, command_end(&c));

	EXPECT_EQ(0, events("collision", self->mem, 2, self->text));
	EXPECT_EQ(1, events("fault", self->mem, 2, self->text));
	EXPECT_STREQ(says(self->mem, 2, FAULT("read", "0")), self->text);
}

/* A fault whose tries all collide, until it holds off everybody else. */
TEST_F_TIMEOUT(trace, slow_path, TIMEOUT)
{
	unsigned int collisions = 0;
	struct chase chase;
	char *rest;

	if (!chase_start(&chase))
		SKIP(return, NO_USERFAULTFD);
	put(BUFFER, "");
	ASSERT_TRUE(chase_into_slow_path(&chase, 1));
	EXPECT_LE(1, events("slow_path", chase.mem, LEAF_PAGES, self->text));
	EXPECT_STREQ(says(chase.mem, LEAF_PAGES, ""), self->text);

	put(BUFFER, "");
	__atomic_store_n(&chase.over, true, __ATOMIC_SEQ_CST);
	trap_release(&chase.trap, NEW_DATA);
	pthread_join(chase.thread, NULL);
	ASSERT_EQ(0, chase.ret);
	EXPECT_TRUE(page_holds(chase.data, 0, NEW_DATA));
	EXPECT_EQ(1, events("fault", chase.mem, LEAF_PAGES, self->text));
	rest = strstr(self->text, " collisions=");
	ASSERT_NE(NULL, rest);
	if (sscanf(rest, " collisions=%u slow=1", &collisions) != 1)
		die(rest);
	EXPECT_LT(0, collisions);
	EXPECT_STREQ(" slow=1", strrchr(rest, ' '));
	*rest = '\0';
	EXPECT_STREQ(says(chase.mem, LEAF_PAGES, "access=read result=0"), self->text);
	EXPECT_EQ(0, close(chase.fd));
}

TEST_HARNESS_MAIN
