<?php
// Performs jobs of one of those that keep them: leaves a line of when each was enqueued, which its payload says, and when it is
// performed.
[, $of, $place, $trace] = $argv;
$trace = fopen($trace, 'a');
$perform = static function (string $payload) use ($trace): void {
    fwrite($trace, "$payload " . hrtime(true) . "\n");
};
if ($of === 'Roster') {
    require __DIR__ . '/../../php/autoload.php';
    $worker = Roster\Worker::fromEnvironment();
    $worker->perform('bench', static fn (Roster\Job $job) => $perform($job->payload), concurrency: 8);
    $worker->ready();
    $worker->run();
    exit;
}
if ($of === 'Sqlite') {
    // SQLite3Stmt::execute() runs what returns rows twice.
    $jobs = new PDO("sqlite:$place", options: [PDO::ATTR_TIMEOUT => 60]);
    $jobs->exec('PRAGMA synchronous = FULL');
    $take = $jobs->prepare('UPDATE jobs SET taken = 1 WHERE id = (SELECT id FROM jobs WHERE taken = 0 ORDER BY id LIMIT 1)
        RETURNING id, payload');
    while (true) {
        $take->execute();
        $taken = $take->fetchAll(PDO::FETCH_ASSOC);
        $taken === [] && usleep(10_000);
        foreach ($taken as $job) {
            $perform($job['payload']);
            $jobs->exec("DELETE FROM jobs WHERE id = $job[id]");
        }
    }
}
$server = stream_socket_client("unix://$place");
$ask = static function (string $request) use ($server): string {
    @fwrite($server, $request);
    $answer = fgets($server);
    return $answer === false ? exit : rtrim($answer, "\r\n");
};
$read = static function (int $bytes) use ($server): string {
    return substr(stream_get_contents($server, $bytes + 2), 0, $bytes);
};
while ($of === 'Beanstalkd') {
    [$answer, $id, $bytes] = [...explode(' ', $ask("reserve-with-timeout 10\r\n")), 0, 0];
    if ($answer === 'RESERVED') {
        $perform($read((int) $bytes));
        $ask("delete $id\r\n");
    }
}
// Redis: from one list to another, so that a job whose worker dies is not lost.
$command = static function (string ...$words): string {
    return '*' . count($words) . "\r\n" . implode(array_map(static fn ($word) => '$' . strlen($word) . "\r\n$word\r\n", $words));
};
while (true) {
    $answer = $ask($command('BLMOVE', 'bench', 'doing', 'LEFT', 'RIGHT', '10'));
    if ($answer !== '$-1' && $answer !== '*-1') {
        $perform($payload = $read((int) substr($answer, 1)));
        $ask($command('LREM', 'doing', '1', $payload));
    }
}
