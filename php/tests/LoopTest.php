<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Worker\Line;
use Roster\Worker\Logger;
use Roster\Worker\Loop;

/** A worker's own loop serves what it can wait for, and says what it cannot. */
final class LoopTest extends TestCase
{
    /** From this descriptor on, select() takes none. */
    private const LIMIT = 1_024;

    private Loop $loop;
    private Line $log;
    /** @var list<resource> */
    private array $held = [];
    /** @var list<resource> the other ends of what is watched */
    private array $writers = [];
    /** @var list<string> */
    private array $served = [];

    protected function setUp(): void
    {
        [$here, $there] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        array_map(static fn ($stream) => stream_set_blocking($stream, false), [$here, $there]);
        $line = new Line($here);
        $this->log = new Line($there);
        $this->loop = new Loop(new Logger(static fn () => $line));
    }

    protected function tearDown(): void
    {
        [$this->held, $this->writers] = [[], []];
        unset($this->loop);
    }

    public function testAStreamWithTooHighADescriptorIsLoggedOnceAndStopsNoOther(): void
    {
        if (posix_getrlimit()['soft openfiles'] < self::LIMIT + 64) {
            self::markTestSkipped('this process may not have so many descriptors');
        }
        $this->watch('low');
        while (count($this->held) < self::LIMIT) {
            $this->held[] = fopen('/dev/null', 'r');
        }
        $this->watch('high');
        for ($times = 0; $times < 3; $times++) {
            $this->loop->wait([], [], 0.01);
        }
        self::assertSame(['low', 'low', 'low'], $this->served);
        $logged = array_column($this->log->receive(), 0);
        self::assertSame(['error'], array_column($logged, 'level'));
        self::assertMatchesRegularExpression('/set to 1024, .* as high as 1\d\d\d/', $logged[0]['context']['reason']);
        fread($this->held[0], 1);
        $began = hrtime(true);
        $this->loop->wait([], [], 10);
        $took = (hrtime(true) - $began) / 1e6;
        self::assertGreaterThanOrEqual(20, $took, 'it does not spin');
        self::assertLessThan(10_000, $took);
    }

    public function testWhatServesAStreamAndIsAGeneratorIsLoggedSinceNothingOfItIsRun(): void
    {
        $this->held = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        fwrite($this->held[1], 'x');
        $this->loop->watch($this->held[0], static fn () => yield 1);
        $this->loop->wait([], [], 1);
        $logged = $this->log->receive()[0][0];
        self::assertStringContainsString('has a `yield` in it', $logged['context']['exception']['message']);
    }

    /** @requires extension pcntl */
    public function testASignalIsNoFailure(): void
    {
        $before = pcntl_async_signals(true);
        pcntl_signal(SIGALRM, static fn () => null);
        pcntl_alarm(1);
        $began = microtime(true);
        [$here] = $this->held = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        $this->loop->wait([$here], [], 10);
        pcntl_signal(SIGALRM, SIG_DFL);
        pcntl_async_signals($before);
        self::assertLessThan(9, microtime(true) - $began);
        self::assertSame([], $this->log->receive());
    }

    /** @requires extension pcntl */
    public function testAForkOfWhatServesAStreamServesNoOther(): void
    {
        $child = null;
        $this->watch('one', function () use (&$child): void {
            $child ??= pcntl_fork();
        });
        $this->watch('other');
        $result = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        $this->loop->wait([], [], 1);
        if ($child === 0) {
            fwrite($result[1], implode(' ', $this->served));
            posix_kill(getmypid(), SIGKILL);
        }
        fclose($result[1]);
        pcntl_waitpid($child, $status);
        self::assertSame(['one', 'other'], $this->served);
        self::assertSame('one', stream_get_contents($result[0]));
    }

    private function watch(string $name, ?\Closure $also = null): void
    {
        [$here, $there] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        fwrite($there, 'x');
        $this->writers[] = $there;
        $this->loop->watch($here, function () use ($name, $also): void {
            $this->served[] = $name;
            $also === null || $also();
        });
        $this->held[] = $here;
    }
}
