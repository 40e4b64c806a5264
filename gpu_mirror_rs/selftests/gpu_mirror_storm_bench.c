// SPDX-License-Identifier: GPL-2.0
/*
 * What a device fault costs while memory changes, for any driver of the GPU
 * mirror: test_hmm or gpu_mirror_rs.
 *
 * One thread has the device fault 16 pages in, again and again; others change
 * the same pages, or unrelated ones of the same process. Besides the time that
 * the device takes, ftrace tells how often the driver had to read the page
 * tables for it; both in passes of their own, since tracing takes time.
 *
 * Every byte that the device delivers is checked. As storms soon wipe out what
 * a driver wrongly kept, races look for that in addition.
 *
 * Figures for programs are in lines of their own, with times in nanoseconds;
 * what the driver itself counts is 0 where it does not:
 *   figures: storm=NAME range=same|unrelated KEY=NUMBER...
 *   figures: race=NAME KEY=NUMBER...
 */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <linux/mman.h>

#include "kselftest.h"
#include "gpu_mirror.h"

#define NPAGES		16
/* Enough that the first pages change while the last ones are being read. */
#define RACE_PAGES	64
/* What a huge page covers. */
#define AREA_PAGES	512
#define MAX_THREADS	16
#define MAX_DECOYS	16384
#define MAX_SAMPLES	131072
#define MIN_IOCTLS	20
/* So that the slowest in a hundred is not just the slowest. */
#define MIN_TIMED	100
/* However slow the machine is, so many times the length that was asked for. */
#define PATIENCE	8
#define MIN_ROUNDS	60
#define WRITE_EVERY	4
#define FIRST_WRONG	4
#define DEFAULT_MS	1200

#define TRACING		"/sys/kernel/tracing/instances/"
#define KSM		"/sys/kernel/mm/ksm/"
#define COMPACT		"/proc/sys/vm/compact_memory"
#define DRIVER_COUNTS	"/sys/kernel/debug/gpu_mirror_rs/hmm_dmirror0/"

/*
 * Memory that a storm changes: NPAGES at the start of an area that is aligned
 * as a huge page is. Each change writes the pages at its end, with the number
 * of a generation: @started is the newest that may be seen, @finished the
 * oldest that still may.
 */
struct target {
	void *around;
	void *mem;
	void *twin;
	/* How much of the area the device has to forget for a fault. */
	size_t mirrored;
	bool watched;
	/* What compaction needs, in pages. */
	size_t decoys;
	__u64 started;
	__u64 finished;
	struct gate gate;
	pid_t child;
};

struct kind {
	const char *name;
	/* Why it cannot be done on this machine; NULL if it can. */
	const char *(*lack)(void);
	/* What comes before and after a change, and changes nothing itself. */
	void (*prepare)(struct target *t);
	void (*finish)(struct target *t);
	/* The change. The kernel may be unable to do it this time. */
	bool (*change)(struct target *t);
	/* What the device may be told while the pages change. */
	int refusal;
	/* What /proc/vmstat counts when the kernel did as it was asked. */
	const char *event;
	bool huge;
};

static long long read_number(const char *path)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return -1;
	if (read(fd, text, sizeof(text) - 1) <= 0)
		die(path);
	close(fd);
	return atoll(text);
}

/* A count of the kernel's; -1 if it has none. */
static long long event_count(const char *event)
{
	FILE *file = fopen("/proc/vmstat", "r");
	long long count = -1, n;
	char name[64];

	if (!file)
		die("/proc/vmstat");
	while (fscanf(file, "%63s %lld", name, &n) == 2)
		if (!strcmp(name, event))
			count = n;
	fclose(file);
	return count;
}

static void set(const char *path, const char *text)
{
	if (!write_file(path, text))
		die(path);
}

static bool set_read_only(struct target *t)
{
	protect(t->mem, NPAGES, PROT_READ);
	protect(t->mem, NPAGES, RW);
	return true;
}

static bool unmap_and_map(struct target *t)
{
	unmap(t->mem, NPAGES);
	map_at(t->mem, NPAGES, RW);
	return true;
}

/* While the child lives, each page that is written is copied. */
static void start_copying(struct target *t)
{
	t->gate = gate();
	t->child = start_child();
	if (!t->child) {
		gate_wait(&t->gate);
		_exit(0);
	}
}

static bool just_write(struct target *t)
{
	return true;
}

static void stop_copying(struct target *t)
{
	gate_open(&t->gate);
	wait_child(t->child);
	close(t->gate.in);
	close(t->gate.out);
}

static bool free_pages(struct target *t)
{
	advise(t->mem, NPAGES, MADV_DONTNEED);
	return true;
}

static const char *lack_of_swap(void)
{
	struct sysinfo info;

	return sysinfo(&info) || !info.totalswap ? "no swap" : NULL;
}

/* New pages may wait in a list of the CPU that brought them in, which drains it. */
static bool page_out(struct target *t)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF), cpu;
	cpu_set_t all, one;

	if (sched_getaffinity(0, sizeof(all), &all))
		die("sched_getaffinity");
	for (cpu = 0; cpu < cpus; cpu++) {
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
		advise(t->mem, NPAGES, MADV_PAGEOUT);
	}
	sched_setaffinity(0, sizeof(all), &all);
	return true;
}

static const char *lack_of_ksm(void)
{
	return access(KSM "run", W_OK) ? "no KSM (CONFIG_KSM), or not root" : NULL;
}

/*
 * A page is merged with its twin when both were found unchanged since the scan
 * before, so a third one has done it. What is merged is copied when written.
 */
static void merge_with_twin(struct target *t)
{
	long long scans;

	memcpy(t->twin, t->mem, NPAGES * page_size());
	advise(t->mem, NPAGES, MADV_MERGEABLE);
	advise(t->twin, NPAGES, MADV_MERGEABLE);
	scans = read_number(KSM "full_scans") + 3;
	while (read_number(KSM "full_scans") < scans)
		sched_yield();
}

static const char *lack_of_compaction(void)
{
	return access(COMPACT, W_OK) ? "no compaction (CONFIG_COMPACTION), or not root" : NULL;
}

static void write_pages(struct target *t)
{
	size_t page;

	if (t->watched)
		fill(t->mem, NPAGES, 2 * t->started);
	else
		for (page = 0; page < NPAGES; page++)
			*(__u64 *)page_at(t->mem, page) += 1;
}

/* Where the pages are in memory. Zero stands for those that are not there. */
static void find_frames(const struct target *t, __u64 *frames)
{
	static int fd = -1;
	ssize_t size = NPAGES * sizeof(*frames);

	if (fd < 0)
		fd = open("/proc/self/pagemap", O_RDONLY);
	if (pread(fd, frames, size, (uintptr_t)t->mem / page_size() * sizeof(*frames)) != size)
		die("/proc/self/pagemap");
}

/*
 * Compaction moves pages to the end of memory. A page that it has moved there
 * is the first to be handed out once it is freed, and not moved again; so decoys
 * take those, more of them for as long as nothing moves.
 */
static bool compact(struct target *t)
{
	__u64 before[NPAGES], after[NPAGES];
	void *decoys;
	bool moved;

	advise(t->mem, NPAGES, MADV_DONTNEED);
	decoys = map(t->decoys, RW, PRIVATE | MAP_POPULATE);
	write_pages(t);
	unmap(decoys, t->decoys);
	find_frames(t, before);
	set(COMPACT, "1");
	find_frames(t, after);
	moved = memcmp(before, after, sizeof(before));
	if (moved)
		t->decoys = NPAGES;
	else if (t->decoys < MAX_DECOYS)
		t->decoys *= 2;
	return moved;
}

static const char *lack_of_huge_pages(void)
{
	return access("/sys/kernel/mm/transparent_hugepage", F_OK) ?
		"no huge pages (CONFIG_TRANSPARENT_HUGEPAGE)" : NULL;
}

/* To free a part splits the huge page, so that there is one to make again. */
static bool collapse(struct target *t)
{
	size_t size = AREA_PAGES * page_size();

	advise(page_at(t->mem, AREA_PAGES - 1), 1, MADV_DONTNEED);
	return !madvise(t->mem, size, MADV_COLLAPSE);
}

static const struct kind kinds[] = {
	/* None, for comparison. */
	{ .name = "quiet" },
	{ .name = "mprotect", .change = set_read_only, .refusal = -EPERM },
	{ .name = "munmap", .change = unmap_and_map, .refusal = -EFAULT },
	{ .name = "fork", .prepare = start_copying, .change = just_write, .finish = stop_copying },
	{ .name = "dontneed", .change = free_pages },
	{ .name = "pageout", .change = page_out, .lack = lack_of_swap,
	  .event = "pswpout" },
	{ .name = "ksm", .prepare = merge_with_twin, .change = just_write, .lack = lack_of_ksm,
	  .event = "cow_ksm" },
	{ .name = "compaction", .change = compact, .lack = lack_of_compaction,
	  .event = "pgmigrate_success" },
	{ .name = "collapse", .change = collapse, .lack = lack_of_huge_pages, .huge = true,
	  .event = "thp_collapse_alloc" },
};

static void target_make(struct target *t, const struct kind *kind, bool watched)
{
	size_t size = AREA_PAGES * page_size();

	*t = (struct target){
		.around = map(3 * AREA_PAGES, PROT_NONE, PRIVATE),
		.mirrored = kind->huge ? AREA_PAGES : NPAGES,
		.watched = watched,
		.decoys = NPAGES,
		.started = 1,
		.finished = 1,
	};
	t->mem = (void *)(((uintptr_t)t->around + size - 1) / size * size);
	t->twin = page_at(t->mem, AREA_PAGES + 1);
	map_at(t->mem, AREA_PAGES, RW);
	map_at(t->twin, NPAGES, RW);
	fill(t->mem, NPAGES, 2);
}

static void target_free(struct target *t)
{
	unmap(t->around, 3 * AREA_PAGES);
}

static bool change(const struct kind *kind, struct target *t)
{
	bool done;

	store(&t->started, t->started + 1);
	done = kind->change(t);
	write_pages(t);
	store(&t->finished, t->started);
	return done;
}

/* How often the kernel calls a function, counted by an ftrace of its own. */
struct counter {
	const char *dir;
	const char *function;
};

static const struct counter faults = {
	.dir = TRACING "gpu_mirror_faults/",
	/* hmm_range_fault() once, hmm_range_fault_unlocked_timeout() once for each try. */
	.function = "hmm_range_fault_locked",
};

static const struct counter invalidations = {
	.dir = TRACING "gpu_mirror_invalidations/",
	.function = "__mmu_notifier_invalidate_range_start",
};

static void counter_set(const struct counter *counter, const char *file, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s%s", counter->dir, file);
	set(path, text);
}

static void counter_make(const struct counter *counter)
{
	if (mkdir(counter->dir, 0700) && errno != EEXIST)
		die(counter->dir);
	counter_set(counter, "set_ftrace_filter", counter->function);
	counter_set(counter, "current_tracer", "function");
}

static void counter_start(const struct counter *counter)
{
	counter_set(counter, "trace", "\n");
	counter_set(counter, "tracing_on", "1");
}

/* What the buffers hold and what they had no room for. */
static long long counter_stop(const struct counter *counter)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF), cpu;
	char path[128], line[128];
	long long calls = 0;

	counter_set(counter, "tracing_on", "0");
	for (cpu = 0; cpu < cpus; cpu++) {
		FILE *stats;

		snprintf(path, sizeof(path), "%sper_cpu/cpu%ld/stats", counter->dir, cpu);
		stats = fopen(path, "r");
		if (!stats)
			die(path);
		while (fgets(line, sizeof(line), stats)) {
			long long n;

			if (sscanf(line, "entries: %lld", &n) == 1 ||
			    sscanf(line, "overrun: %lld", &n) == 1)
				calls += n;
		}
		fclose(stats);
	}
	return calls;
}

/* What is known of one storm in the end. */
struct figures {
	/* Of all ioctls: those that found nothing to fault are none. */
	__u64 ioctls;
	__u64 faults;
	__u64 busy;
	__u64 refused;
	__u64 errors;
	__u64 wrong;
	__u64 changes;
	long long events;
	/* Of the timing pass. */
	__u64 timed;
	long long median;
	long long p99;
	long long worst;
	/* Of the counting pass. */
	__u64 counted;
	__u64 forgotten;
	__u64 counted_changes;
	long long calls;
	long long invalidations;
	/* Told by the driver. */
	long long retries;
	long long slow_paths;
};

/* The device at work on a target, and what is known of its data. */
struct work {
	int fd;
	struct target *t;
	int refusal;
	void *data;
	void *sent;
	bool executable;
	/* The tags of the last write, and of the last one that succeeded. */
	__u64 tag;
	__u64 written;
	/* The last generation before the one, and the newest after the other. */
	__u64 before_written;
	__u64 after_write;

	struct figures *figures;
	__u64 *times;
	size_t timed;
};

/*
 * Makes the device forget the pages, so that it faults. To change what the
 * processor may do with them does that in every driver, and keeps the pages,
 * the data, and what the device may do. The pages may not be there just now.
 */
static void forget(struct work *w)
{
	w->figures->forgotten++;
	w->executable = !w->executable;
	mprotect(w->t->mem, w->t->mirrored * page_size(), w->executable ? RW | PROT_EXEC : RW);
}

/*
 * Whether a word is what the process or the device wrote there, and was not
 * overwritten before generation @oldest was finished. Zero has only a page
 * that is being changed.
 */
static bool is_right(const struct work *w, __u64 word, size_t page, size_t i, __u64 oldest,
		     __u64 newest)
{
	__u64 tag = word >> 40, number = tag / 2;

	if (!word)
		return newest > oldest;
	if (word != word_of(tag, page, i))
		return false;
	if (tag % 2)
		return tag >= w->written && tag <= w->tag && oldest <= w->after_write;
	return number >= oldest && number <= newest && number > w->before_written;
}

static void check(struct work *w, __u64 oldest, __u64 newest)
{
	size_t words = page_size() / sizeof(__u64), i;
	const __u64 *data = w->data;

	/* What is nearly always true, found out fast. */
	if (w->written == w->tag && oldest <= w->after_write &&
	    !memcmp(data, w->sent, NPAGES * page_size()))
		return;
	for (i = 0; i < NPAGES * words; i++) {
		if (is_right(w, data[i], i / words, i % words, oldest, newest))
			continue;
		if (w->figures->wrong++ < FIRST_WRONG)
			ksft_print_msg("page %zu: tag %llu, not %llu..%llu or sent %llu..%llu\n",
				       i / words, data[i] >> 40, 2 * oldest, 2 * newest,
				       w->written, w->tag);
	}
}

/* The memory as the processor sees it, if it is there. */
static bool peek(struct work *w)
{
	static int fd = -1;
	ssize_t size = NPAGES * page_size();

	if (fd < 0)
		fd = open("/proc/self/mem", O_RDONLY);
	if (fd < 0)
		die("/proc/self/mem");
	return pread(fd, w->data, size, (uintptr_t)w->t->mem) == size;
}

static bool failed(struct work *w, int ret)
{
	if (!ret)
		return false;
	if (ret == -EBUSY)
		w->figures->busy++;
	else if (w->t->watched && ret == w->refusal)
		w->figures->refused++;
	else if (w->figures->errors++ < FIRST_WRONG)
		ksft_print_msg("the device fails with %s\n", strerror(-ret));
	return true;
}

/* One ioctl, its result checked. */
static void work_once(struct work *w, bool write)
{
	__u64 oldest = load(&w->t->finished), before, time;
	struct hmm_dmirror_cmd cmd;
	int ret;

	if (write) {
		w->tag += 2;
		fill(w->sent, NPAGES, w->tag);
	}
	before = now();
	ret = device_command(w->fd, write ? HMM_DMIRROR_WRITE : HMM_DMIRROR_READ, w->t->mem,
			     write ? w->sent : w->data, NPAGES, &cmd);
	time = now() - before;
	if (write)
		w->after_write = load(&w->t->started);

	if (!ret && cmd.cpages != NPAGES)
		ret = -EBADMSG;
	if (!ret)
		w->figures->faults += cmd.faults;
	if (ret || cmd.faults)
		w->figures->ioctls++;
	/* One that gave up took its time, too. */
	if ((ret ? ret == -EBUSY : cmd.faults) && w->timed < MAX_SAMPLES)
		w->times[w->timed++] = time;
	if (failed(w, ret))
		return;

	if (write) {
		w->written = w->tag;
		w->before_written = oldest;
		oldest = load(&w->t->finished);
		if (!peek(w))
			return;
	}
	check(w, oldest, load(&w->t->started));
}

static void work_for(struct work *w, __u64 length, unsigned int least)
{
	__u64 start = now(), took = 0;
	unsigned int i;

	for (i = 0; took < length || (i < least && took < PATIENCE * length); i++) {
		forget(w);
		work_once(w, i % WRITE_EVERY == 0);
		took = now() - start;
	}
}

struct storm {
	const struct kind *kind;
	struct target *t;
	bool over;
	__u64 changes;
	pthread_t thread;
};

static void *storm_run(void *arg)
{
	struct storm *storm = arg;
	const struct kind *kind = storm->kind;

	do {
		if (kind->prepare)
			kind->prepare(storm->t);
		storm->changes += change(kind, storm->t);
		if (kind->finish)
			kind->finish(storm->t);
	} while (!__atomic_load_n(&storm->over, __ATOMIC_SEQ_CST));
	return NULL;
}

static __u64 storm_end(struct storm *storm)
{
	__atomic_store_n(&storm->over, true, __ATOMIC_SEQ_CST);
	pthread_join(storm->thread, NULL);
	return storm->changes;
}

/*
 * Pages that are replaced one by one while the device reads the page tables:
 * each at most once, and the first ones first, as they are read. When both are
 * done, nothing changes any more, so what a driver kept must be what is there.
 * Neither way waits for the mmap lock.
 */
struct race {
	const char *name;
	void (*replace)(void *page);
	void *mem;
	__u64 value;
	__u64 go;
	__u64 read;
	__u64 done;
};

#define NO_MORE (~0ULL)

/* The pages are those of a file: to write one makes a copy. */
static void replace_by_copy(void *page)
{
}

static void replace_by_fresh(void *page)
{
	advise(page, 1, MADV_DONTNEED);
}

static void *race_run(void *arg)
{
	struct race *race = arg;
	__u64 round;
	size_t page;

	for (round = 1;; round++) {
		while (load(&race->go) < round)
			sched_yield();
		if (load(&race->go) == NO_MORE)
			return NULL;
		for (page = 0; page < RACE_PAGES && load(&race->read) < round; page++) {
			race->replace(page_at(race->mem, page));
			*(__u64 *)page_at(race->mem, page) = ++race->value;
		}
		store(&race->done, round);
	}
}

static void run_race(int fd, struct race *race, __u64 length)
{
	size_t size = RACE_PAGES * page_size(), i;
	void *data = map(RACE_PAGES, RW, PRIVATE | MAP_POPULATE);
	char *seen = data, *mem;
	__u64 end, round, wrong = 0, errors = 0;
	pthread_t thread;

	race->mem = map_file(RACE_PAGES, RW, MAP_PRIVATE, tmpfs_file(RACE_PAGES));
	mem = race->mem;
	thread = start_thread(race_run, race);
	end = now() + length;
	for (round = 1; round <= MIN_ROUNDS || now() < end; round++) {
		int ret;

		/* All pages are there, so that the device has none to wait for. */
		advise(mem, RACE_PAGES, MADV_DONTNEED);
		advise(mem, RACE_PAGES, MADV_POPULATE_READ);
		store(&race->go, round);
		ret = device_read(fd, mem, data, RACE_PAGES);
		store(&race->read, round);
		while (load(&race->done) < round)
			sched_yield();
		if (!ret || ret == -EBUSY)
			ret = device_read(fd, mem, data, RACE_PAGES);
		if (ret && errors++ < FIRST_WRONG)
			ksft_print_msg("round %llu fails with %s\n", round, strerror(-ret));
		if (ret || !memcmp(seen, mem, size))
			continue;
		for (i = 0; seen[i] == mem[i]; i++)
			;
		if (wrong++ < FIRST_WRONG)
			ksft_print_msg("round %llu: the device kept an old page %zu\n", round,
				       i / page_size());
	}
	store(&race->go, NO_MORE);
	pthread_join(thread, NULL);
	printf("figures: race=%s rounds=%llu replaced=%llu wrong=%llu errors=%llu\n", race->name,
	       round - 1, race->value, wrong, errors);
	ksft_test_result(!wrong && !errors, "race.%s\n", race->name);
	unmap(mem, RACE_PAGES);
	unmap(data, RACE_PAGES);
}

static struct race races[] = {
	{ .name = "copy", .replace = replace_by_copy },
	{ .name = "fresh", .replace = replace_by_fresh },
};

static int compare_times(const void *a, const void *b)
{
	const __u64 *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* The time that @percent of the ioctls took at most. */
static long long percentile(const struct work *w, unsigned int percent)
{
	return w->timed ? w->times[(w->timed * percent + 99) / 100 - 1] : -1;
}

/* Keeps the storms of unrelated memory away: compaction and fork take all of it. */
static void keep_out(const struct target *t)
{
	if (mlock(t->mem, NPAGES * page_size()))
		die("mlock");
	advise(t->mem, NPAGES, MADV_DONTFORK);
}

/* A kind of storm on the pages of the device, or on others. */
struct storm_test {
	const struct kind *kind;
	bool same;
	struct figures figures;
};

static void time_ioctls(struct work *w, __u64 length)
{
	struct figures *f = w->figures;

	work_for(w, length, w->t->watched ? MIN_IOCTLS : MIN_TIMED);
	qsort(w->times, w->timed, sizeof(*w->times), compare_times);
	f->timed = w->timed;
	f->median = percentile(w, 50);
	f->p99 = percentile(w, 99);
	f->worst = percentile(w, 100);
}

static void run(struct work *w, struct storm_test *test, bool counting, __u64 length)
{
	static struct target others[MAX_THREADS];
	static struct storm storms[MAX_THREADS];
	struct figures *f = &test->figures;
	const struct kind *kind = test->kind;
	__u64 ioctls = f->ioctls, changes = 0;
	bool same = test->same;
	long threads, i;
	struct target t;

	target_make(&t, kind, same);
	if (!same)
		keep_out(&t);
	*w = (struct work){
		.fd = w->fd,
		.data = w->data,
		.sent = w->sent,
		.times = w->times,
		.t = &t,
		.refusal = kind->refusal,
		.tag = 1,
		.figures = f,
	};

	/* One CPU is the device's; on the same pages, one thread is enough. */
	threads = same ? 1 : sysconf(_SC_NPROCESSORS_ONLN) - 1;
	if (threads < 1)
		threads = 1;
	if (threads > MAX_THREADS)
		threads = MAX_THREADS;
	if (!kind->change)
		threads = 0;
	for (i = 0; i < threads; i++) {
		storms[i] = (struct storm){ .kind = kind, .t = &t };
		if (!same) {
			storms[i].t = &others[i];
			target_make(&others[i], kind, false);
		}
	}

	f->retries -= read_number(DRIVER_COUNTS "retries");
	f->slow_paths -= read_number(DRIVER_COUNTS "slow_paths");
	f->events -= kind->event ? event_count(kind->event) : 0;
	f->forgotten = 0;
	if (counting) {
		counter_start(&faults);
		counter_start(&invalidations);
	}
	for (i = 0; i < threads; i++)
		storms[i].thread = start_thread(storm_run, &storms[i]);
	if (counting)
		work_for(w, length, MIN_IOCTLS);
	else
		time_ioctls(w, length);
	for (i = 0; i < threads; i++)
		changes += storm_end(&storms[i]);
	f->changes += changes;
	f->events += kind->event ? event_count(kind->event) : 0;
	if (counting) {
		f->invalidations = counter_stop(&invalidations);
		f->calls = counter_stop(&faults);
		f->counted = f->ioctls - ioctls;
		f->counted_changes = changes;
	}
	f->retries += read_number(DRIVER_COUNTS "retries");
	f->slow_paths += read_number(DRIVER_COUNTS "slow_paths");

	for (i = 0; i < threads && !same; i++)
		target_free(&others[i]);
	target_free(&t);
}

/* Whether memory really changed as the storm's name says. */
static bool was_storm(const struct storm_test *test)
{
	const struct figures *f = &test->figures;

	if (!test->kind->change)
		return true;
	/* Changes of the device's own pages may undo one another. */
	if (test->same)
		return f->changes;
	return f->changes && f->invalidations >= f->forgotten + f->counted_changes &&
	       (!test->kind->event || f->events);
}

static void report(const struct storm_test *test)
{
	const char *range = test->same ? "same" : "unrelated";
	const struct figures *f = &test->figures;

	printf("figures: storm=%s range=%s changes=%llu events=%lld ioctls=%llu faults=%llu",
	       test->kind->name, range, f->changes, f->events, f->ioctls, f->faults);
	printf(" busy=%llu refused=%llu errors=%llu wrong=%llu timed=%llu median=%lld p99=%lld",
	       f->busy, f->refused, f->errors, f->wrong, f->timed, f->median, f->p99);
	printf(" worst=%lld counted=%llu calls=%lld forgotten=%llu counted_changes=%llu",
	       f->worst, f->counted, f->calls, f->forgotten, f->counted_changes);
	printf(" invalidations=%lld retries=%lld slow_paths=%lld\n", f->invalidations,
	       f->retries, f->slow_paths);
	if (f->wrong)
		ksft_print_msg("%llu words of the device's data are wrong\n", f->wrong);
	if (!was_storm(test))
		ksft_print_msg("there was no such storm\n");
	if (!f->timed || !f->counted)
		ksft_print_msg("the device faulted nothing in\n");
	ksft_test_result(!f->wrong && !f->errors && was_storm(test) && f->timed && f->counted,
			 "%s.%s\n", test->kind->name, range);
}

/* Settings of the kernel that the storms need, and what they were before. */
static struct knob {
	const char *path;
	const char *value;
	long long before;
} knobs[] = {
	{ "/proc/sys/vm/compact_unevictable_allowed", "0" },
	{ KSM "sleep_millisecs", "1" },
	{ KSM "pages_to_scan", "64" },
	{ KSM "smart_scan", "0" },
	{ KSM "run", "1" },
};

static void turn_knobs(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(knobs); i++) {
		knobs[i].before = read_number(knobs[i].path);
		write_file(knobs[i].path, knobs[i].value);
	}
}

static void turn_knobs_back(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(knobs); i++) {
		char text[32];

		snprintf(text, sizeof(text), "%lld", knobs[i].before);
		write_file(knobs[i].path, text);
	}
}

static bool is_chosen(const struct kind *kind, char **names)
{
	char **name;

	for (name = names; *name; name++)
		if (!strcmp(*name, kind->name))
			return true;
	return !*names;
}

int main(int argc, char **argv)
{
	static struct storm_test tests[2 * ARRAY_SIZE(kinds)];
	size_t ntests = 0, plan = ARRAY_SIZE(races), i;
	__u64 length = DEFAULT_MS * 1000000ULL;
	struct work work = { 0 };
	int opt;

	while ((opt = getopt(argc, argv, "t:")) != -1) {
		if (opt != 't') {
			fprintf(stderr, "usage: %s [-t MILLISECONDS] [STORM]...\n", argv[0]);
			return KSFT_FAIL;
		}
		length = atoll(optarg) * 1000000ULL;
	}
	ksft_print_header();
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		const struct kind *kind = &kinds[i];

		if (!is_chosen(kind, argv + optind))
			continue;
		if (kind->lack && kind->lack()) {
			ksft_test_result_skip("%s %s\n", kind->name, kind->lack());
			plan++;
			continue;
		}
		if (kind->change)
			tests[ntests++] = (struct storm_test){ .kind = kind, .same = true };
		tests[ntests++] = (struct storm_test){ .kind = kind };
	}
	ksft_set_plan(plan + ntests);

	work.fd = device_open(0);
	if (work.fd < 0)
		ksft_exit_fail();
	work.data = map(2 * NPAGES, RW, PRIVATE | MAP_POPULATE);
	work.sent = page_at(work.data, NPAGES);
	advise(work.data, 2 * NPAGES, MADV_DONTFORK);
	work.times = calloc(MAX_SAMPLES, sizeof(*work.times));
	if (!work.times)
		die("calloc");
	turn_knobs();
	for (i = 0; i < ntests; i++)
		run(&work, &tests[i], false, tests[i].same ? length / 2 : length);
	/* Not earlier: a function that is traced takes longer. */
	counter_make(&faults);
	counter_make(&invalidations);
	for (i = 0; i < ntests; i++) {
		run(&work, &tests[i], true, length / 3);
		report(&tests[i]);
	}
	rmdir(faults.dir);
	rmdir(invalidations.dir);
	turn_knobs_back();

	for (i = 0; i < ARRAY_SIZE(races); i++)
		run_race(work.fd, &races[i], length);
	close(work.fd);
	ksft_finished();
}
