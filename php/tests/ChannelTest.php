<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Exception\CallFailed;
use Roster\Exception\Unavailable;
use Roster\Origin;
use Roster\Tests\Support\Answer;
use Roster\Tests\Support\FakeSidecar;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\Process;
use Roster\Thrift\CallResult;
use Roster\Thrift\Roster_call_result;
use Roster\Thrift\Roster_getMany_result as Result;
use Roster\Thrift\Roster_services_result;
use Roster\Thrift\ServicesReply;
use Roster\Timeouts;

/** A connection never gives out another request's answer, and never waits for ever. */
final class ChannelTest extends TestCase
{
    public function testAnAnswerUnderAWrongNumberIsRefusedAndTheConnectionClosed(): void
    {
        $fake = new FakeSidecar([
            [Answer::nodes(['/a' => 'of another'], shift: 1)],
            [Answer::nodes(['/a' => 'own'])],
        ]);
        $roster = self::client($fake);
        self::assertStringContainsString('the answer belongs to another request', self::failure($roster));
        self::assertSame('own', $roster->get('/a')->data);
        $fake->await('connected', 'asked getMany', 'left', 'connected', 'asked getMany');
    }

    public function testRequestsFollowEachOtherOnOneConnection(): void
    {
        $fake = new FakeSidecar([[Answer::nodes(['/a' => 'one']), Answer::nodes(['/a' => 'two'])]]);
        $roster = self::client($fake);
        self::assertSame('one', $roster->get('/a')->data);
        self::assertSame('two', $roster->get('/a')->data);
        $fake->await('connected', 'asked getMany', 'asked getMany');
    }

    /** @dataProvider cuts */
    public function testHalfAnAnswerIsNoAnswer(int $cut, string $where): void
    {
        $fake = new FakeSidecar([
            [Answer::nodes(['/a' => 'half'], cut: $cut, close: true)],
            [Answer::nodes(['/a' => 'whole'])],
        ]);
        $roster = self::client($fake);
        self::assertStringContainsString("closed $where the answer", self::failure($roster));
        self::assertSame('whole', $roster->get('/a')->data);
    }

    public static function cuts(): array
    {
        return [[0, 'before'], [2, 'within'], [4, 'before'], [30, 'within']];
    }

    public function testAnAnswerThatEndsWithinItsFrameIsNoAnswer(): void
    {
        $truncated = Answer::nodes(['/a' => 'data']);
        $truncated['body'] = base64_encode(substr(base64_decode($truncated['body']), 0, 20));
        $fake = new FakeSidecar([[$truncated], [Answer::nodes(['/a' => 'whole'])]]);
        $roster = self::client($fake);
        self::assertStringContainsString('a strange answer', self::failure($roster));
        self::assertSame('whole', $roster->get('/a')->data);
    }

    public function testAnAnswerWithoutAResultIsNoAnswer(): void
    {
        $fake = new FakeSidecar([[Answer::of(new Result())], [Answer::nodes([])]]);
        $roster = self::client($fake);
        self::assertStringContainsString('a strange answer', self::failure($roster));
        self::assertNull($roster->get('/a'));
    }

    public function testAnAnswerThatBeginsTooLateIsNotWaitedForAndNeverReadLater(): void
    {
        $fake = new FakeSidecar([
            [Answer::nodes(['/a' => 'late'], pauseMs: 3_000), Answer::nodes(['/a' => 'late'])],
            [Answer::nodes(['/b' => 'own'])],
        ]);
        $roster = self::client($fake, new Timeouts(readMs: 100));
        $began = microtime(true);
        self::assertStringContainsString('no answer in time', self::failure($roster));
        self::assertLessThan(2.5, microtime(true) - $began);
        self::assertStringContainsString('it has just timed out', self::failure($roster));
        $fresh = self::client($fake);
        self::assertSame('own', $fresh->get('/b')->data);
    }

    public function testAnAnswerThatStopsHalfwayIsNotWaitedFor(): void
    {
        $fake = new FakeSidecar([[Answer::nodes(['/a' => 'half'], cut: 30)]]);
        $roster = self::client($fake, new Timeouts(readMs: 100));
        self::assertStringContainsString('no answer in time', self::failure($roster));
        $fake->await('connected', 'asked getMany', 'left');
    }

    public function testTheWholeRequestHasADeadlineOverAllWays(): void
    {
        $slow = [[Answer::nodes(['/a' => 'slow'], pauseMs: 10_000)]];
        [$unix, $tcp] = [new FakeSidecar($slow), new FakeSidecar($slow, isTcp: true)];
        $timeouts = new Timeouts(readMs: 2_000, totalMs: 2_500);
        $roster = Client::local($unix->address, $tcp->address, '', timeouts: $timeouts);
        $began = microtime(true);
        self::failure($roster);
        self::assertLessThan(3.75, microtime(true) - $began);
    }

    public function testEachPartOfALongAnswerHasItsTime(): void
    {
        $page = static function (?string $cursor): array {
            $page = ['services' => [], 'cursor' => $cursor, 'freshness' => Answer::freshness()];
            return Answer::of(new Roster_services_result(['success' => new ServicesReply($page)]), pauseMs: 1_000);
        };
        $fake = new FakeSidecar([[$page('a'), $page('b'), $page(null)]]);
        $roster = self::client($fake, new Timeouts(readMs: 2_500, totalMs: 2_500));
        self::assertSame([], $roster->services());
    }

    public function testPagesThatDoNotEndAreNoAnswer(): void
    {
        $page = ['services' => [], 'cursor' => 'again', 'freshness' => Answer::freshness()];
        $page = Answer::of(new Roster_services_result(['success' => new ServicesReply($page)]));
        $fake = new FakeSidecar([[$page, $page]]);
        $this->expectException(Unavailable::class);
        $this->expectExceptionMessage('a strange answer: its pages do not end');
        self::client($fake)->services();
    }

    public function testAnOriginOfANewerSidecarIsUnknown(): void
    {
        $freshness = Answer::freshness();
        $freshness->origin = 3;
        $reply = new ServicesReply(['services' => [], 'freshness' => $freshness]);
        $fake = new FakeSidecar([[Answer::of(new Roster_services_result(['success' => $reply]))]]);
        $roster = self::client($fake);
        self::assertSame([], $roster->services());
        self::assertSame(Origin::Unknown, $roster->freshness()->origin);
    }

    public function testAConnectionThatIsNotTakenIsNotWaitedFor(): void
    {
        $address = self::fullBacklog('tcp://127.0.0.1:0', $held);
        $roster = Client::local('', $address, '', timeouts: new Timeouts(connectMs: 100));
        $began = microtime(true);
        self::assertStringContainsString('cannot connect', self::failure($roster));
        self::assertLessThan(5, microtime(true) - $began);
    }

    public function testAFullBacklogOfAUnixSocketIsTriedAgainAsLongAsConnectingMayTake(): void
    {
        $folder = new Folder();
        self::fullBacklog("unix://$folder->path/full.sock", $held);
        $roster = Client::local("$folder->path/full.sock", '', '', timeouts: new Timeouts(connectMs: 60));
        $began = microtime(true);
        self::assertStringContainsString('cannot connect: [11]', self::failure($roster));
        $took = microtime(true) - $began;
        self::assertGreaterThan(0.06, $took);
        self::assertLessThan(5.0, $took);
    }

    public function testABacklogThatIsTakenMeanwhileCostsNoAnswer(): void
    {
        $folder = new Folder();
        self::fullBacklog("unix://$folder->path/full.sock", $held);
        $child = pcntl_fork();
        if ($child === 0) {
            usleep(50_000);
            stream_socket_accept($held[0]);
            sleep(60);
        }
        try {
            $timeouts = new Timeouts(connectMs: 5_000, totalMs: 10_000);
            $roster = Client::local("$folder->path/full.sock", '', '', timeouts: $timeouts);
            self::assertStringContainsString('no answer in time', self::failure($roster), 'it is connected');
        } finally {
            posix_kill($child, SIGKILL);
            pcntl_waitpid($child, $status);
        }
    }

    public function testAConnectionThatTheSidecarClosedWhileIdleIsOpenedAnew(): void
    {
        $fake = new FakeSidecar([
            [Answer::nodes(['/a' => 'one'], close: true)],
            [Answer::nodes(['/a' => 'two'])],
        ]);
        $roster = self::client($fake);
        self::assertSame('one', $roster->get('/a')->data);
        $fake->await('connected', 'asked getMany', 'closed');
        self::assertSame('two', $roster->get('/a')->data);
    }

    public function testARequestMayPauseAsLongAsAnAnswerMay(): void
    {
        $result = new CallResult(['values' => ["\x07"], 'masterId' => 'm', 'durationUs' => 1, 'attempts' => 1]);
        $fake = new FakeSidecar([[Answer::of(new Roster_call_result(['success' => $result]))]]);
        $roster = self::client($fake, new Timeouts(readMs: 10_000, totalMs: 20_000));
        $fake->hang();
        $folder = new Folder();
        $wakes = new Process(['sh', '-c', 'sleep 1; kill -CONT "$0"', (string) $fake->id()], "$folder->path/log");
        self::assertSame(7, $roster->call('demo', 'take', [str_repeat('x', 900_000)])->value);
        self::assertSame(0, $wakes->await());
    }

    public function testARequestThatIsNotReadIsGivenUpInTime(): void
    {
        $fake = new FakeSidecar([[]]);
        $roster = self::client($fake, new Timeouts(readMs: 600, totalMs: 20_000));
        $fake->hang();
        $began = microtime(true);
        try {
            $roster->call('demo', 'take', [str_repeat('x', 900_000)]);
            self::fail('nobody has read it');
        } catch (CallFailed | Unavailable $failure) {
            self::assertStringContainsString('timed out sending', $failure->getMessage());
        }
        $took = microtime(true) - $began;
        self::assertGreaterThan(0.5, $took);
        self::assertLessThan(5, $took);
    }

    public function testAPersistentConnectionOutlivesItsClient(): void
    {
        $fake = new FakeSidecar([[Answer::nodes(['/a' => 'one']), Answer::nodes(['/a' => 'two'])]]);
        self::assertSame('one', self::persistent($fake)->get('/a')->data);
        self::assertSame('two', self::persistent($fake)->get('/a')->data);
        $fake->await('connected', 'asked getMany', 'asked getMany');
    }

    public function testAPersistentConnectionThatTheSidecarClosedWhileIdleIsOpenedAnew(): void
    {
        $fake = new FakeSidecar([
            [Answer::nodes(['/a' => 'one'], close: true)],
            [Answer::nodes(['/a' => 'two'])],
        ]);
        self::assertSame('one', self::persistent($fake)->get('/a')->data);
        $fake->await('connected', 'asked getMany', 'closed');
        self::assertSame('two', self::persistent($fake)->get('/a')->data);
    }

    public function testARequestThatTheIdleCloseMetIsSentOnceMore(): void
    {
        $closing = Answer::nodes([], cut: 0, close: true);
        $fake = new FakeSidecar([[Answer::nodes(['/a' => 'one']), $closing], [Answer::nodes(['/a' => 'two'])]]);
        $roster = self::client($fake);
        self::assertSame('one', $roster->get('/a')->data);
        self::assertSame('two', $roster->get('/a')->data);
    }

    public function testTheAnswerToAnAbandonedRequestIsNeverGivenToTheNext(): void
    {
        $fake = new FakeSidecar([
            [Answer::nodes(['/a' => 'one']), Answer::nodes(['/a' => 'of the abandoned request'])],
            [Answer::nodes(['/a' => 'two'])],
        ]);
        self::assertSame('one', self::persistent($fake)->get('/a')->data);
        $question = "\x80\x01\x00\x01" . pack('N', 7) . 'getMany' . pack('N', 1) . "\x00";
        $flags = STREAM_CLIENT_CONNECT | STREAM_CLIENT_PERSISTENT;
        $abandoned = stream_socket_client("unix://$fake->address", $error, $reason, 1, $flags);
        fwrite($abandoned, pack('N', strlen($question)) . $question);
        self::assertNotSame('', stream_socket_recvfrom($abandoned, 1, STREAM_PEEK));
        self::assertSame('two', self::persistent($fake)->get('/a')->data);
    }

    public function testParentAndChildOfAForkDoNotShareAConnection(): void
    {
        $fake = new FakeSidecar([[Answer::nodes(['/a' => 'of the parent']), Answer::nodes(['/a' => 'again'])]]);
        $roster = self::client($fake);
        $roster->get('/a');
        $child = pcntl_fork();
        if ($child === 0) {
            try {
                $roster->get('/a');
            } finally {
                posix_kill(getmypid(), SIGKILL);
            }
        }
        pcntl_waitpid($child, $status);
        self::assertSame('again', $roster->get('/a')->data);
        $fake->await('connected', 'asked getMany', 'asked getMany');
    }

    public function testAForkTakesNoPersistentConnectionOfItsParent(): void
    {
        $fake = new FakeSidecar([[Answer::nodes(['/a' => 'of the parent']), Answer::nodes(['/a' => 'again'])]]);
        self::persistent($fake)->get('/a');
        $child = pcntl_fork();
        if ($child === 0) {
            try {
                Client::local($fake->address, '', '', timeouts: new Timeouts(readMs: 200), persistent: true)->get('/a');
            } finally {
                posix_kill(getmypid(), SIGKILL);
            }
        }
        pcntl_waitpid($child, $status);
        self::assertSame('again', self::persistent($fake)->get('/a')->data);
        $fake->await('connected', 'asked getMany', 'asked getMany');
    }

    private static function client(FakeSidecar $fake, ?Timeouts $timeouts = null): Client
    {
        return Client::local($fake->address, '', '', timeouts: $timeouts ?? Patient::timeouts());
    }

    private static function persistent(FakeSidecar $fake): Client
    {
        return Patient::local($fake->address, '', '', persistent: true);
    }

    private static function failure(Client $roster): string
    {
        try {
            $roster->get('/a');
        } catch (Unavailable $failure) {
            return $failure->getMessage();
        }
        self::fail('it answered');
    }

    /** A listener that takes no further connection; its address. */
    private static function fullBacklog(string $address, ?array &$held): string
    {
        $context = stream_context_create(['socket' => ['backlog' => 0]]);
        $server = stream_socket_server($address, $error, $reason, STREAM_SERVER_BIND | STREAM_SERVER_LISTEN, $context);
        $held = [$server];
        $name = stream_socket_get_name($server, false);
        $scheme = strstr($address, ':', true);
        while (count($held) < 20 && $client = @stream_socket_client("$scheme://$name", $error, $reason, 0.1)) {
            $held[] = $client;
        }
        return $name;
    }
}
