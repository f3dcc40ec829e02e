<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Exception\Disconnected;
use Roster\Exception\Overloaded;
use Roster\Worker\Requests;

/**
 * A worker that asks for sockets gets those that it has asked for.
 *
 * @requires extension sockets
 */
final class RequestsTest extends TestCase
{
    private const ASKED = 'tcp://127.0.0.1:1111';

    /** @var resource the worker's end */
    private $worker;
    private \Socket $sidecar;

    protected function setUp(): void
    {
        socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $pair);
        $this->worker = socket_export_stream($pair[0]);
        $this->sidecar = $pair[1];
    }

    public function testTheAnswerToARequestIsTheSocket(): void
    {
        $given = $this->answer();
        $listener = (new Requests($this->worker))->listen(self::ASKED);
        self::assertSame($given, stream_socket_get_name($listener, false));
        self::assertSame(self::ASKED . "\n", socket_read($this->sidecar, 600));
    }

    public function testAnAnswerThatComesTooLateIsNotThatToTheNextRequest(): void
    {
        $requests = new Requests($this->worker, 0.1);
        $this->assertRefused($requests, Overloaded::class, 'does not answer');
        $this->assertRefused($requests, Overloaded::class, 'an earlier request');
        self::assertFalse(@socket_write($this->sidecar, '{}'), 'it takes no late one');
    }

    /** @requires extension pcntl */
    public function testASignalDoesNotEndTheWait(): void
    {
        $before = pcntl_async_signals(true);
        pcntl_signal(SIGALRM, static fn () => null);
        $given = $this->child(function (): string {
            usleep(300_000);
            posix_kill(posix_getppid(), SIGALRM);
            usleep(300_000);
            return $this->answer();
        });
        try {
            $listener = (new Requests($this->worker))->listen(self::ASKED);
        } finally {
            pcntl_signal(SIGALRM, SIG_DFL);
            pcntl_async_signals($before);
        }
        self::assertSame($given(), stream_socket_get_name($listener, false));
    }

    public function testASidecarThatIsGoneIsSaidToBe(): void
    {
        socket_shutdown($this->sidecar, 1);
        $this->assertRefused(new Requests($this->worker), Disconnected::class, 'it is gone');
    }

    /** @requires extension pcntl */
    public function testAForkAsksForNothing(): void
    {
        $requests = new Requests($this->worker);
        $told = $this->child(static function () use ($requests): string {
            try {
                return stream_socket_get_name($requests->listen(self::ASKED), false);
            } catch (Disconnected $told) {
                return $told->getMessage();
            }
        });
        self::assertStringContainsString('this is a fork', $told());
        $this->answer();
        $requests->listen(self::ASKED);
    }

    /** Answers with a socket of its own; its name. */
    private function answer(): string
    {
        $listener = stream_socket_server('tcp://127.0.0.1:0');
        $control = [['level' => SOL_SOCKET, 'type' => SCM_RIGHTS, 'data' => [$listener]]];
        socket_sendmsg($this->sidecar, ['iov' => ['{}'], 'control' => $control], 0);
        return stream_socket_get_name($listener, false);
    }

    /** What a child comes to, once it has. */
    private function child(\Closure $do): \Closure
    {
        $pipe = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        $child = pcntl_fork();
        if ($child === 0) {
            fwrite($pipe[1], $do());
            posix_kill(getmypid(), SIGKILL);
        }
        fclose($pipe[1]);
        return static function () use ($pipe, $child): string {
            pcntl_waitpid($child, $status);
            return stream_get_contents($pipe[0]);
        };
    }

    private function assertRefused(Requests $requests, string $class, string $why): void
    {
        try {
            $requests->listen(self::ASKED);
        } catch (\RuntimeException $error) {
            self::assertSame($class, $error::class);
            self::assertStringContainsString($why, $error->getMessage());
            return;
        }
        self::fail('it is refused');
    }
}
