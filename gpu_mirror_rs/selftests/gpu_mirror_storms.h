/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Storms: what changes memory under a device, the device at work in them, and
 * what its data may be at any time. Behind kselftest.h.
 */
#ifndef _GPU_MIRROR_STORMS_H
#define _GPU_MIRROR_STORMS_H

#include <sched.h>
#include <sys/sysinfo.h>
#include <linux/mman.h>

#include "gpu_mirror.h"

#define NPAGES		16
#define MAX_DECOYS	16384
#define MAX_SAMPLES	131072
/* However slow the machine is, so many times the length that was asked for. */
#define PATIENCE	8
#define WRITE_EVERY	4
#define FIRST_WRONG	4

#define KSM		"/sys/kernel/mm/ksm/"
#define COMPACT		"/proc/sys/vm/compact_memory"

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
	/* Whether the pages must stay as they are between changes, for there to be one. */
	bool still;
};

static inline long long read_number(const char *path)
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
static inline long long event_count(const char *event)
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

static inline void set(const char *path, const char *text)
{
	if (!write_file(path, text))
		die(path);
}

static inline bool set_read_only(struct target *t)
{
	protect(t->mem, NPAGES, PROT_READ);
	protect(t->mem, NPAGES, RW);
	return true;
}

static inline bool unmap_and_map(struct target *t)
{
	unmap(t->mem, NPAGES);
	map_at(t->mem, NPAGES, RW);
	return true;
}

/* While the child lives, each page that is written is copied. */
static inline void start_copying(struct target *t)
{
	t->gate = gate();
	t->child = start_child();
	if (!t->child) {
		gate_wait(&t->gate);
		_exit(0);
	}
}

static inline bool just_write(struct target *t)
{
	return true;
}

static inline void stop_copying(struct target *t)
{
	gate_open(&t->gate);
	wait_child(t->child);
	close(t->gate.in);
	close(t->gate.out);
}

static inline bool free_pages(struct target *t)
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
static inline bool page_out(struct target *t)
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
static inline void merge_with_twin(struct target *t)
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

static inline void write_pages(struct target *t)
{
	size_t page;

	if (t->watched)
		fill(t->mem, NPAGES, 2 * t->started);
	else
		for (page = 0; page < NPAGES; page++)
			*(__u64 *)page_at(t->mem, page) += 1;
}

/* Where the pages are in memory. Zero stands for those that are not there. */
static inline void find_frames(const struct target *t, __u64 *frames)
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
static inline bool compact(struct target *t)
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
static inline bool collapse(struct target *t)
{
	size_t size = HUGE_PAGES * page_size();

	advise(page_at(t->mem, HUGE_PAGES - 1), 1, MADV_DONTNEED);
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
	  .event = "cow_ksm", .still = true },
	{ .name = "compaction", .change = compact, .lack = lack_of_compaction,
	  .event = "pgmigrate_success" },
	{ .name = "collapse", .change = collapse, .lack = lack_of_huge_pages, .huge = true,
	  .event = "thp_collapse_alloc" },
};

static inline void target_make(struct target *t, const struct kind *kind, bool watched)
{
	size_t size = HUGE_PAGES * page_size();

	*t = (struct target){
		.around = map(3 * HUGE_PAGES, PROT_NONE, PRIVATE),
		.mirrored = kind->huge ? HUGE_PAGES : NPAGES,
		.watched = watched,
		.decoys = NPAGES,
		.started = 1,
		.finished = 1,
	};
	t->mem = (void *)(((uintptr_t)t->around + size - 1) / size * size);
	t->twin = page_at(t->mem, HUGE_PAGES + 1);
	map_at(t->mem, HUGE_PAGES, RW);
	map_at(t->twin, NPAGES, RW);
	fill(t->mem, NPAGES, 2);
}

static inline void target_free(struct target *t)
{
	unmap(t->around, 3 * HUGE_PAGES);
}

static inline bool change(const struct kind *kind, struct target *t)
{
	bool done;

	store(&t->started, t->started + 1);
	done = kind->change(t);
	write_pages(t);
	store(&t->finished, t->started);
	return done;
}

/* What became of the device's ioctls: those that found nothing to fault are none. */
struct outcomes {
	__u64 ioctls;
	__u64 faults;
	__u64 busy;
	__u64 refused;
	__u64 errors;
	__u64 wrong;
	/* Times that the device was made to fault. */
	__u64 forgotten;
};

/* The device at work on a target, and what is known of its data. */
struct work {
	int fd;
	struct target *t;
	int refusal;
	void *data;
	void *sent;
	bool executable;
	bool reads_only;
	/* The tags of the last write, and of the last one that succeeded. */
	__u64 tag;
	__u64 written;
	/* The last generation before the one, and the newest after the other. */
	__u64 before_written;
	__u64 after_write;

	struct outcomes *outcomes;
	/* How long each took, if somebody wants to know. */
	__u64 *times;
	size_t timed;
};

/*
 * Makes the device forget the pages, so that it faults. To change what the
 * processor may do with them does that in every driver, and keeps the pages,
 * the data, and what the device may do. The pages may not be there just now.
 */
static inline void forget(struct work *w)
{
	w->outcomes->forgotten++;
	w->executable = !w->executable;
	mprotect(w->t->mem, w->t->mirrored * page_size(), w->executable ? RW | PROT_EXEC : RW);
}

/*
 * Whether a word is what the process or the device wrote there, and was not
 * overwritten before generation @oldest was finished. Zero has only a page
 * that is being changed.
 */
static inline bool is_right(const struct work *w, __u64 word, size_t page, size_t i, __u64 oldest,
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

/* How many words of a page can be met by the copy just as they change. */
#define MOST_TORN	4

/* Whether a byte is of a tag that @w may find. */
static inline bool is_tag_byte(const struct work *w, __u8 byte, int shift, __u64 oldest,
			       __u64 newest)
{
	__u64 tag;

	for (tag = w->written; tag <= w->tag; tag += 2)
		if ((__u8)(tag >> shift) == byte)
			return true;
	for (tag = 2 * oldest; tag <= 2 * newest; tag += 2)
		if ((__u8)(tag >> shift) == byte)
			return true;
	return false;
}

/* A copy may go byte by byte: each byte is right then, and the word is none. */
static inline bool is_torn(const struct work *w, __u64 word, size_t page, size_t i, __u64 oldest,
			   __u64 newest)
{
	__u64 place = word_of(0, page, i);
	int shift;

	for (shift = 0; shift < 64; shift += 8) {
		__u8 byte = word >> shift;

		if (!byte && newest > oldest)
			continue;
		if (shift < 40 ? byte != (__u8)(place >> shift) :
				 !is_tag_byte(w, byte, shift - 40, oldest, newest))
			return false;
	}
	return true;
}

static inline void check(struct work *w, __u64 oldest, __u64 newest)
{
	size_t words = page_size() / sizeof(__u64), torn = 0, i;
	const __u64 *data = w->data;

	/* What is nearly always true, found out fast. */
	if (w->written == w->tag && oldest <= w->after_write &&
	    !memcmp(data, w->sent, NPAGES * page_size()))
		return;
	for (i = 0; i < NPAGES * words; i++) {
		if (i % words == 0)
			torn = 0;
		if (is_right(w, data[i], i / words, i % words, oldest, newest))
			continue;
		if (torn++ < MOST_TORN &&
		    is_torn(w, data[i], i / words, i % words, oldest, newest))
			continue;
		if (w->outcomes->wrong++ < FIRST_WRONG)
			ksft_print_msg("page %zu: tag %llu, not %llu..%llu or sent %llu..%llu\n",
				       i / words, data[i] >> 40, 2 * oldest, 2 * newest,
				       w->written, w->tag);
	}
}

/* The memory as the processor sees it, if it is there. */
static inline bool peek(struct work *w)
{
	static int fd = -1;
	ssize_t size = NPAGES * page_size();

	if (fd < 0)
		fd = open("/proc/self/mem", O_RDONLY);
	if (fd < 0)
		die("/proc/self/mem");
	return pread(fd, w->data, size, (uintptr_t)w->t->mem) == size;
}

static inline bool failed(struct work *w, int ret)
{
	if (!ret)
		return false;
	if (ret == -EBUSY)
		w->outcomes->busy++;
	else if (w->t->watched && ret == w->refusal)
		w->outcomes->refused++;
	else if (w->outcomes->errors++ < FIRST_WRONG)
		ksft_print_msg("the device fails with %s\n", strerror(-ret));
	return true;
}

/* One ioctl, its result checked. */
static inline void work_once(struct work *w, bool write)
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
		w->outcomes->faults += cmd.faults;
	if (ret || cmd.faults)
		w->outcomes->ioctls++;
	/* One that gave up took its time, too. */
	if ((ret ? ret == -EBUSY : cmd.faults) && w->times && w->timed < MAX_SAMPLES)
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

static inline void work_for(struct work *w, __u64 length, unsigned int least)
{
	__u64 start = now(), took = 0;
	unsigned int i;

	for (i = 0; took < length || (i < least && took < PATIENCE * length); i++) {
		forget(w);
		work_once(w, i % WRITE_EVERY == 0 && !w->reads_only);
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

static inline void *storm_run(void *arg)
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

static inline __u64 storm_end(struct storm *storm)
{
	__atomic_store_n(&storm->over, true, __ATOMIC_SEQ_CST);
	pthread_join(storm->thread, NULL);
	return storm->changes;
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

static inline void turn_knobs(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(knobs); i++) {
		knobs[i].before = read_number(knobs[i].path);
		write_file(knobs[i].path, knobs[i].value);
	}
}

static inline void turn_knobs_back(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(knobs); i++) {
		char text[32];

		snprintf(text, sizeof(text), "%lld", knobs[i].before);
		write_file(knobs[i].path, text);
	}
}

static inline bool is_chosen(const struct kind *kind, char **names)
{
	char **name;

	for (name = names; *name; name++)
		if (!strcmp(*name, kind->name))
			return true;
	return !*names;
}

/* How long each storm is to last, if that is said, and the names of those to run. */
static inline char **parse_options(int argc, char **argv, __u64 *length)
{
	int opt;

	while ((opt = getopt(argc, argv, "t:")) != -1) {
		if (opt != 't') {
			fprintf(stderr, "usage: %s [-t MILLISECONDS] [STORM]...\n", argv[0]);
			exit(KSFT_FAIL);
		}
		*length = atoll(optarg) * 1000000ULL;
	}
	return argv + optind;
}

#endif /* _GPU_MIRROR_STORMS_H */
