/* Writes a RocksDB database with random batches of every operation, or prints what it holds.
 * writer write DIRECTORY SEED   until it is killed
 * writer dump DIRECTORY         a line an entry: family, key, value, in hexadecimal
 * writer pair DIRECTORY SEED    writes, last a put and its single delete, and kills itself
 * writer purge DIRECTORY SEED   writes without keeping log files, flushes and ends */
#include <rocksdb/c.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FAMILIES = 4 };
static const char *const NAMES[FAMILIES] = {"default", "people", "counters", "once"};

static void check(char *error) {
  if (error) {
    fprintf(stderr, "%s\n", error);
    exit(1);
  }
}

static uint64_t state;
static uint64_t dice(uint64_t sides) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (state >> 33) % sides;
}

static void close_all(rocksdb_t *db, rocksdb_column_family_handle_t **families) {
  for (int n = 0; n < FAMILIES; n++) rocksdb_column_family_handle_destroy(families[n]);
  rocksdb_close(db);
}

int main(int count, char **args) {
  if (count < 3) return 2;
  int purge = !strcmp(args[1], "purge");
  int pair = !strcmp(args[1], "pair");
  char *error = NULL;
  rocksdb_options_t *options = rocksdb_options_create();
  rocksdb_options_set_create_if_missing(options, 1);
  rocksdb_options_set_create_missing_column_families(options, 1);
  if (!purge) rocksdb_options_set_WAL_ttl_seconds(options, 86400);
  const rocksdb_options_t *each[FAMILIES];
  for (int n = 0; n < FAMILIES; n++) {
    rocksdb_options_t *own = rocksdb_options_create();
    /* Small: tables are written, and log files left, all the time. */
    rocksdb_options_set_write_buffer_size(own, 64 << 10);
    if (n == 2) rocksdb_options_set_uint64add_merge_operator(own);
    each[n] = own;
  }
  rocksdb_column_family_handle_t *families[FAMILIES];
  rocksdb_t *db = rocksdb_open_column_families(options, args[2], FAMILIES, NAMES, each, families, &error);
  check(error);

  if (!strcmp(args[1], "dump")) {
    rocksdb_readoptions_t *reading = rocksdb_readoptions_create();
    for (int n = 0; n < FAMILIES; n++) {
      rocksdb_iterator_t *at = rocksdb_create_iterator_cf(db, reading, families[n]);
      for (rocksdb_iter_seek_to_first(at); rocksdb_iter_valid(at); rocksdb_iter_next(at)) {
        size_t length;
        printf("%s ", NAMES[n]);
        const char *bytes = rocksdb_iter_key(at, &length);
        for (size_t i = 0; i < length; i++) printf("%02x", (unsigned char)bytes[i]);
        printf(" ");
        bytes = rocksdb_iter_value(at, &length);
        for (size_t i = 0; i < length; i++) printf("%02x", (unsigned char)bytes[i]);
        printf("\n");
      }
      rocksdb_iter_destroy(at);
    }
    close_all(db, families);
    return 0;
  }

  state = strtoull(args[3], NULL, 10);
  rocksdb_writeoptions_t *writing = rocksdb_writeoptions_create();
  static char value[9000];
  memset(value, 'v', sizeof value);
  uint64_t unique = strtoull(args[3], NULL, 10) << 32;
  for (uint64_t round = 0; purge ? round < 500 : !pair || round < 5; round++) {
    rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
    uint64_t operations = 1 + dice(8);
    for (uint64_t n = 0; n < operations; n++) {
      char key[32], end[32], once[32];
      int length = snprintf(key, sizeof key, "key-%05llu", (unsigned long long)dice(3000));
      rocksdb_column_family_handle_t *family = families[dice(2)];
      switch (dice(12)) {
        case 0: case 1: case 2: case 3: case 4: {
          size_t size = dice(40) ? dice(200) : dice(sizeof value);
          int marked = snprintf(value, 40, "%llu-%llu ", (unsigned long long)round, (unsigned long long)n);
          value[marked] = 'v';
          rocksdb_writebatch_put_cf(batch, family, key, length, value, size);
          break;
        }
        case 5: case 6:
          rocksdb_writebatch_delete_cf(batch, family, key, length);
          break;
        case 7: case 8: {
          uint64_t operand = dice(1000);
          rocksdb_writebatch_merge_cf(batch, families[2], key, 8, (const char *)&operand, sizeof operand);
          break;
        }
        case 9: {
          int last = snprintf(end, sizeof end, "%.*s~", length - 1, key);
          rocksdb_writebatch_delete_range_cf(batch, family, key, length, end, last);
          break;
        }
        default: {
          /* Written once; half of them deleted once. */
          int size = snprintf(once, sizeof once, "once-%016llx", (unsigned long long)unique++);
          rocksdb_writebatch_put_cf(batch, families[3], once, size, "1", 1);
          if (dice(2)) rocksdb_writebatch_singledelete_cf(batch, families[3], once, size);
        }
      }
    }
    rocksdb_write(db, writing, batch, &error);
    check(error);
    rocksdb_writebatch_destroy(batch);
  }
  if (pair) {
    rocksdb_put_cf(db, writing, families[3], "twin", 4, "1", 1, &error);
    check(error);
    rocksdb_singledelete_cf(db, writing, families[3], "twin", 4, &error);
    check(error);
    raise(SIGKILL);
  }
  rocksdb_flushoptions_t *flushing = rocksdb_flushoptions_create();
  for (int n = 0; n < FAMILIES; n++) {
    rocksdb_flush_cf(db, flushing, families[n], &error);
    check(error);
  }
  close_all(db, families);
  return 0;
}
