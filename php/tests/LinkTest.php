<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Tests\Support\Process;
use Roster\Wire\MessagePack;
use Roster\Worker\Dialer;
use Roster\Worker\Line;
use Roster\Worker\Link;
use Roster\Worker\Logger;

/** A connection to a register is kept, given up when nobody is there, and made again. */
final class LinkTest extends TestCase
{
    /** @var resource the register's listener */
    private $listener;
    private Logger $logger;
    /** Where what is logged can be read. */
    private Line $log;
    private array $logged = [];

    protected function setUp(): void
    {
        $this->listener = stream_socket_server('tcp://127.0.0.1:0');
        [$here, $there] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        array_map(static fn ($stream) => stream_set_blocking($stream, false), [$here, $there]);
        $line = new Line($here);
        $this->logger = new Logger(static fn () => $line);
        $this->log = new Line($there);
    }

    public function testARegisterThatFallsSilentIsAskedOnceAndThenLeft(): void
    {
        $link = $this->link(pingInterval: 0.2, pongTimeout: 0.2);
        $register = $this->accept($link);
        $asked = [];
        Process::until(static function () use ($link, $register, &$asked): bool {
            $link->receive(true);
            array_push($asked, ...array_column($register->receive(), 0));
            return $link->line() === null;
        }, 'it is left');
        self::assertSame(['ping'], array_column($asked, 'cmd'));
        self::assertContains('it does not answer a ping', $this->reasons());
    }

    public function testARegisterThatAnswersOrSaysAnythingStays(): void
    {
        $link = $this->link(pingInterval: 0.05, pongTimeout: 5);
        $register = $this->accept($link);
        $pongs = 0;
        Process::until(static function () use ($link, $register, &$pongs): bool {
            $link->receive(true);
            foreach ($register->receive() as [$message]) {
                $register->send(['cmd' => 'pong', 'uuid' => $message['uuid']]);
                $pongs++;
            }
            return $pongs === 3;
        }, 'it is asked again');
        self::assertNotNull($link->line());
    }

    public function testAWorkerThatIsBusyBlamesNoRegister(): void
    {
        $link = $this->link(pingInterval: 0.05, pongTimeout: 0.05);
        $register = $this->accept($link);
        for ($times = 0; $times < 2; $times++) {
            usleep(150_000);
            $register->send(['cmd' => 'list', 'uuid' => 'u']);
            $link->receive(true);
            for ($busy = 0; $busy < 3; $busy++) {
                usleep(150_000);
                $link->receive(false);
                self::assertNotNull($link->line());
            }
        }
    }

    public function testAWorkerThatWasBusyReadsTheAnswerToItsTokenBeforeItBlamesTheRegister(): void
    {
        $link = $this->link(connectTimeout: 1);
        $client = $this->meet($link);
        fwrite($client, MessagePack::pack(['cmd' => 'auth-success']));
        usleep(1_200_000);
        $link->receive(true);
        self::assertNotNull($link->line());
        self::assertSame([], $this->reasons());
    }

    public function testARegisterThatSaysNothingOfTheTokenIsLeft(): void
    {
        $link = $this->link(connectTimeout: 0.2);
        Process::until(static function () use ($link): bool {
            $link->receive(true);
            return $link->stream() !== null;
        }, 'it connects');
        Process::until(static function () use ($link): bool {
            $link->receive(true);
            return $link->stream() === null;
        }, 'it is left');
        self::assertSame(['it does not answer'], $this->reasons());
    }

    public function testRetriesComeLaterAndLaterAndAreLoggedOnce(): void
    {
        $address = stream_socket_get_name($this->listener, false);
        fclose($this->listener);
        $link = new Link(new Dialer("tcp://$address", null), 'token', 'id', $this->logger);
        $delays = [];
        for ($failures = 0; $failures < 3; $failures++) {
            Process::until(static function () use ($link): bool {
                $link->receive(true);
                return $link->patience() !== 0.01;
            }, 'it fails');
            $delays[] = $link->patience();
            Process::until(static fn () => $link->patience() === 0.0, 'it is time for another try');
            $link->receive(true);
        }
        foreach ($delays as $number => $delay) {
            self::assertLessThanOrEqual(0.5 * 2 ** $number, $delay);
        }
        self::assertCount(1, $this->reasons());
        $this->listener = stream_socket_server("tcp://$address");
        $this->accept($link);
    }

    public function testWhatFollowsTheAnswerToTheTokenIsHeardAndWhatPrecedesItIsNot(): void
    {
        $link = $this->link();
        $client = $this->meet($link);
        $messages = [['cmd' => 'list', 'uuid' => 'early'], ['cmd' => 'auth-success'], ['cmd' => 'list', 'uuid' => 'late']];
        fwrite($client, implode('', array_map(MessagePack::pack(...), $messages)));
        Process::until(static function () use ($link, &$heard): bool {
            $heard = $link->receive(true);
            return $heard !== [];
        }, 'it is heard');
        self::assertSame(['late'], array_column(array_column($heard, 0), 'uuid'));
    }

    private function link(mixed ...$settings): Link
    {
        $address = 'tcp://' . stream_socket_get_name($this->listener, false);
        return new Link(new Dialer($address, null), 'token', 'id', $this->logger, ...$settings);
    }

    /** @return resource the register's end of the connection */
    private function meet(Link $link): mixed
    {
        Process::until(function () use ($link, &$client): bool {
            $link->receive(true);
            [$ready, $none] = [[$this->listener], null];
            $client = stream_select($ready, $none, $none, 0) ? stream_socket_accept($this->listener, 0) : false;
            return $client !== false;
        }, 'it connects');
        return $client;
    }

    private function accept(Link $link): Line
    {
        $client = $this->meet($link);
        stream_set_blocking($client, false);
        $register = new Line($client);
        Process::until(static function () use ($link, $register): bool {
            $link->receive(true);
            foreach ($register->receive() as [$message]) {
                self::assertSame(['cmd' => 'auth', 'token' => 'token', 'native' => 1, 'id' => 'id'], $message);
                $register->send(['cmd' => 'auth-success', 'message' => 'welcome']);
            }
            return $link->line() !== null;
        }, 'it is accepted');
        return $register;
    }

    /** @return list<string> why it was lost, as it was logged */
    private function reasons(): array
    {
        array_push($this->logged, ...array_column($this->log->receive(), 0));
        return array_values(array_filter(array_column(array_column($this->logged, 'context'), 'reason')));
    }
}
