<?php
// A table of jobs in SQLite: `make` makes it, `enqueue` enqueues for so many milliseconds and tells how many, `read` enqueues
// what it reads, a line each.
[, $what, $file] = $argv;
$jobs = new SQLite3($file);
$jobs->busyTimeout(60_000);
$jobs->exec('PRAGMA journal_mode = WAL');
$jobs->exec('PRAGMA synchronous = FULL');
if ($what === 'make') {
    $jobs->exec('CREATE TABLE jobs (id INTEGER PRIMARY KEY, taken INTEGER NOT NULL DEFAULT 0, payload BLOB NOT NULL)');
    $jobs->exec('CREATE INDEX free ON jobs (taken, id)');
    exit;
}
$insert = $jobs->prepare('INSERT INTO jobs (payload) VALUES (:payload)');
$enqueue = function (string $payload) use ($insert): void {
    $insert->bindValue(':payload', $payload, SQLITE3_BLOB);
    $insert->execute()->finalize();
};
if ($what === 'enqueue') {
    $until = hrtime(true) + (int) $argv[3] * 1_000_000;
    for ($count = 0; hrtime(true) < $until; $count++) {
        $enqueue(str_repeat('x', 100));
    }
    echo $count;
    exit;
}
while (($line = fgets(STDIN)) !== false) {
    $enqueue(trim($line));
    echo "enqueued\n";
}
