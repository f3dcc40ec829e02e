<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Exception\InvalidRequest;
use Roster\Worker;

/** What a worker cannot do it refuses at once. */
final class WorkerRefusalsTest extends TestCase
{
    /** @dataProvider addresses */
    public function testAnAddressThatIsNoneIsRefusedAtOnce(string $address): void
    {
        $this->expectException(InvalidRequest::class);
        Worker::connect($address, token: 'x');
    }

    public static function addresses(): array
    {
        return array_map(static fn (string $address) => [$address], [
            '', '127.0.0.1:8010', 'tcp://127.0.0.1', 'udp://a:1', 'unix://a', 'tcp://a/b:1', 'http://a:1', "tcp://a:1\n",
        ]);
    }

    public function testAnEmptyTokenIsRefusedWithWhereOneIsFound(): void
    {
        $this->expectException(InvalidRequest::class);
        $this->expectExceptionMessage('register.token');
        Worker::connect('tcp://127.0.0.1:8010', token: '');
    }

    public function testATokenWithTheEndOfItsLineIsRefused(): void
    {
        $this->expectException(InvalidRequest::class);
        $this->expectExceptionMessage('white space');
        Worker::connect('tcp://127.0.0.1:8010', token: "x\n");
    }

    /** @dataProvider severalQueues */
    public function testTheQueuesOfPhpResqueAreRefusedWithTheCure(string $queue, string $why): void
    {
        $this->expectException(InvalidRequest::class);
        $this->expectExceptionMessage("queue: `$queue` $why: call perform() for each of them, with a `weight`");
        Worker::connect('unix:///nowhere', token: 'x')->perform($queue);
    }

    public static function severalQueues(): array
    {
        return [
            ['*', 'does not stand for all queues'], ['mail*', 'does not stand for all queues'],
            ['high,low', 'is several queues'],
        ];
    }

    public function testWhatNeedsASidecarThatHasStartedItSaysSo(): void
    {
        $worker = Worker::connect('unix:///nowhere', token: 'x');
        $worker->ready();
        self::assertSame([[], [], null], [$worker->params(), $worker->listeners(), $worker->stream()]);
        foreach ([
            static fn () => Worker::fromEnvironment(),
            static fn () => $worker->send('x'),
            static fn () => $worker->broadcast('x'),
            static fn () => $worker->listen('tcp://127.0.0.1:1'),
            static fn () => $worker->offer('', new \stdClass()),
            static fn () => $worker->offer('a', new \stdClass(), ['a' => static fn () => 1]),
            static fn () => $worker->offer('a', new \stdClass(), ['a' => str_repeat('x', 20_000)]),
            static fn () => $worker->offer('a', new \stdClass(), ['a list']),
            static fn () => $worker->onCommand('status', static fn () => 1),
        ] as $number => $do) {
            try {
                $do();
                self::fail("nothing was refused at $number");
            } catch (InvalidRequest) {
            }
        }
    }
}
