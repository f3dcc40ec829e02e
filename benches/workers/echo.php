<?php
// Answers what it is asked: a worker of a sidecar, or, where a name is given, a master that connects by itself.
require __DIR__ . '/../../php/autoload.php';

use Roster\Worker;

final class Says
{
    public function echo(string $what): string
    {
        return $what;
    }
}

$worker = isset($argv[1])
    ? Worker::connect(getenv('REGISTER'), token: getenv('REGISTER_TOKEN'))
    : Worker::fromEnvironment();
$worker->offer($argv[1] ?? 'worker', new Says());
$worker->onCommand('echo', fn (mixed $data) => $data);
$worker->ready();
$worker->run();
