<?php

declare(strict_types=1);

// A worker of the tests, which offers `demo` and what its arguments name: worker.php [ADDRESS TOKEN [NAME…]]
// Without an address it is one that a sidecar has started. With WORKER_CA in its environment it believes those in it.

use Roster\Worker;

require __DIR__ . '/../../autoload.php';

final class Demo
{
    public string $shown = 'yes';
    private string $hidden = 'no';

    public function __construct(private readonly Worker $worker)
    {
    }

    public function __call(string $name, array $arguments): string
    {
        return "magic $name";
    }

    public function echo(mixed ...$arguments): array
    {
        return $arguments;
    }

    public function pair(mixed $first, mixed $second = 'none'): array
    {
        return [$first, $second];
    }

    public function add(int $one, int $other): int
    {
        return $one + $other;
    }

    public static function fixed(): string
    {
        return 'static';
    }

    public function nothing(): void
    {
    }

    public function itself(): self
    {
        return $this;
    }

    public function bytes(): string
    {
        return "\xff\x00\xfe";
    }

    public function values(): \Generator
    {
        yield 1;
        yield null;
        yield ['three' => 3];
    }

    public function iterator(): \ArrayIterator
    {
        return new \ArrayIterator(['a' => 1, 'b' => 2]);
    }

    public function collection(): object
    {
        return new class () implements \IteratorAggregate, \JsonSerializable {
            public function getIterator(): \Iterator
            {
                yield 'wrong';
            }

            public function jsonSerialize(): array
            {
                return ['one', 'value'];
            }
        };
    }

    public function none(): \EmptyIterator
    {
        return new \EmptyIterator();
    }

    public function broken(): \Generator
    {
        yield 1;
        throw new \DomainException('midway', 9);
    }

    public function fail(string $message, int $code): never
    {
        throw new \InvalidArgumentException($message, $code);
    }

    public function anonymous(): never
    {
        throw new class ('nameless', 4) extends \Exception {
        };
    }

    public function textCode(): never
    {
        throw new class ('as databases do') extends \Exception {
            protected $code = '42S02';
        };
    }

    public function longMessage(): never
    {
        throw new \Exception('x' . str_repeat('ü', 3 << 20));
    }

    public function error(): int
    {
        return strlen([]);
    }

    public function closure(): array
    {
        return ['inside' => static fn () => 1];
    }

    public function huge(): string
    {
        return str_repeat('x', 50 << 20);
    }

    public function deep(int $levels): mixed
    {
        for ($deep = 1; $levels > 0; $levels--) {
            $deep = [$deep];
        }
        return $deep;
    }

    public function endless(): array
    {
        $endless = [];
        $endless[] = &$endless;
        return $endless;
    }

    public function speak(string $text): string
    {
        echo $text;
        fwrite(STDERR, "$text\n");
        return strrev($text);
    }

    public function warn(): string
    {
        trigger_error('a warning of the method', E_USER_WARNING);
        return 'warned';
    }

    public function leave(): never
    {
        exit(7);
    }

    public function logAndLeave(): never
    {
        $this->worker->log()->info('the last word');
        exit(7);
    }

    public function sleep(float $seconds, string $file = '/dev/null'): string
    {
        file_put_contents($file, 'asleep');
        usleep((int) ($seconds * 1e6));
        return 'slept';
    }

    public function append(string $path, string $text): void
    {
        file_put_contents($path, $text, FILE_APPEND);
    }

    public function paced(int $count, float $seconds): \Generator
    {
        for ($number = 1; $number <= $count; $number++) {
            yield $number;
            usleep((int) ($seconds * 1e6));
        }
    }

    /** Each of so many bytes; what was given is left in a file, and that it was ended. */
    public function blocks(int $count, int $bytes, string $file = '/dev/null'): \Generator
    {
        try {
            for ($number = 1; $number <= $count; $number++) {
                file_put_contents($file, (string) $number);
                yield str_repeat('x', $bytes);
            }
        } finally {
            file_put_contents("$file.ended", 'yes');
        }
    }

    /** The most memory that it held since it was asked last. */
    public function peak(): int
    {
        $peak = memory_get_peak_usage();
        function_exists('memory_reset_peak_usage') && memory_reset_peak_usage();
        return $peak;
    }

    public function pid(): int
    {
        return getmypid();
    }

    public function offer(string $name, array $metadata = []): void
    {
        $this->worker->offer($name, $this, $metadata);
    }

    public function again(): string
    {
        $this->worker->run();
        return 'ran';
    }

    public function send(mixed $data): void
    {
        $this->worker->send($data);
    }

    public function broadcast(mixed $data): void
    {
        $this->worker->broadcast($data);
    }

    public function broadcastMuch(int $count, int $bytes): void
    {
        $this->worker->broadcast(array_fill(0, $count, str_repeat('x', $bytes)));
    }

    public function log(string $level, string $message, array $context): void
    {
        $this->worker->log()->log($level, $message, $context);
    }

    public function logMuch(int $count, int $bytes): void
    {
        for (; $count > 0; $count--) {
            $this->worker->log()->info(str_repeat('x', $bytes));
        }
    }

    public function logOdd(): void
    {
        $this->worker->log()->error(str_repeat('ü', 1 << 20), [
            'exception' => new \DomainException('no'),
            'closure' => static fn () => 1,
            'large' => str_repeat('x', 1 << 20),
            'after' => 7,
        ]);
    }

    public function many(int $bytes): string
    {
        return str_repeat('x', $bytes);
    }

    public function listeners(): array
    {
        return array_keys($this->worker->listeners());
    }

    public function params(): array
    {
        return $this->worker->params();
    }

    public function environment(string $variable): array
    {
        return [getenv($variable), $_SERVER[$variable] ?? null];
    }

    public function stop(): void
    {
        $this->worker->stop();
    }
}

$worker = isset($argv[1])
    ? Worker::connect($argv[1], token: $argv[2], ca: getenv('WORKER_CA') ?: null)
    : Worker::fromEnvironment();
$worker->offer('demo', new Demo($worker), ['version' => '1.2.0', 'zone' => 'b', 'weight' => 3]);
foreach (array_slice($argv, 3) as $name) {
    $worker->offer($name, new Demo($worker));
}
$worker->onCommand('reverse', static fn (string $text) => strrev($text));
$worker->onCommand('count', static fn (int $to) => yield from range(1, $to));
$worker->onCommand('refuse', static fn () => throw new \DomainException('not now', 5));
$worker->onMessage(static function (mixed $data, ?string $from) use ($worker): void {
    if ($data === 'fail') {
        throw new \RuntimeException('no message');
    }
    $worker->log()->notice('heard', ['data' => $data, 'from' => $from]);
});
foreach ($worker->listeners() as $name => $listener) {
    $worker->watch($listener, static function ($listener) use ($name, $worker): void {
        $client = @stream_socket_accept($listener, 0);
        if (!$client) {
            return;
        }
        $line = fgets($client);
        if ($line === "fail\n") {
            throw new \RuntimeException('no connection');
        }
        fwrite($client, "$name " . getmypid() . " $line");
        fclose($client);
    });
}
$worker->ready();
$worker->run();
fwrite(STDERR, "ended\n");
