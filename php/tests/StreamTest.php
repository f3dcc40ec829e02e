<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Exception\CallFailed;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NoMaster;
use Roster\Exception\Unavailable;
use Roster\Tests\Support\Answer;
use Roster\Tests\Support\FakeSidecar;
use Roster\Thrift;
use Roster\Wire\MessagePack;

/** A stream gives each value when it comes, and ends with its call. */
final class StreamTest extends TestCase
{
    public function testEachValueIsGivenBeforeTheNextIsAskedFor(): void
    {
        $fake = new FakeSidecar([[self::first(['1', '{"b":[]}']), self::next(['null']), self::next([], isAll: true)]]);
        $stream = Client::local($fake->address, '', '')->stream('reports', 'rows');
        self::assertSame([], $fake->seen());
        self::assertSame(1, $stream->current());
        $fake->await('connected', 'asked startCall');
        $rest = [];
        for ($stream->next(); $stream->valid(); $stream->next()) {
            $rest[$stream->key()] = $stream->current();
        }
        self::assertSame([1 => ['b' => []], 2 => null], $rest);
        $fake->await('connected', 'asked startCall', 'asked nextValues', 'asked nextValues', 'left');
    }

    public function testWhoBreaksOffGivesTheCallUp(): void
    {
        $fake = new FakeSidecar([[self::first(['1']), self::next(['2'])]]);
        $roster = Client::local($fake->address, '', '', persistent: true);
        foreach ($roster->stream('reports', 'rows') as $value) {
            self::assertSame(1, $value);
            break;
        }
        $fake->await('connected', 'asked startCall', 'left');
    }

    public function testAnErrorAfterSomeValuesArrivesAsWhatItIs(): void
    {
        $full = ['masterId' => 'm', 'message' => 'full', 'className' => 'Full', 'code' => 7, 'lost' => false];
        $failed = new Thrift\Roster_nextValues_result(['failed' => new Thrift\CallFailed($full)]);
        $error = self::failure(new FakeSidecar([[self::first(['1']), Answer::of($failed)]]));
        self::assertSame(['full', 'Full', 7, false], [
            $error->getMessage(), $error->className, $error->getCode(), $error->lost,
        ]);
    }

    public function testAValueThatIsCutOffIsAStrangeAnswer(): void
    {
        $first = new Thrift\CallValues(['values' => ["\xa5cut"]]);
        $fake = new FakeSidecar([[Answer::of(new Thrift\Roster_startCall_result(['success' => $first]))]]);
        $this->expectException(CallFailed::class);
        $this->expectExceptionMessage('a strange answer: a value of the sidecar is cut off');
        Client::local($fake->address, '', '')->stream('reports', 'rows')->current();
    }

    public function testWhatIsLostWithItsConnectionIsNotStartedAgain(): void
    {
        $none = new Thrift\InvalidRequest(['field' => 'call', 'message' => 'none is open']);
        $other = Answer::of(new Thrift\Roster_nextValues_result(['invalid' => $none]));
        $fake = new FakeSidecar([[self::first(['1'], close: true)], [$other]]);
        self::assertTrue(self::failure($fake)->lost);
        self::assertCount(1, array_keys($fake->seen(), 'asked startCall', true));
    }

    public function testAStreamThatCannotBeginGoesTheNextWayOrSaysWhy(): void
    {
        $noMaster = new Thrift\NoMaster(['serviceName' => 'reports', 'message' => 'nobody']);
        $refused = Answer::of(new Thrift\Roster_startCall_result(['noMaster' => $noMaster]));
        $tcp = new FakeSidecar([[self::first(['7'], isAll: true)], [$refused]], isTcp: true);
        $roster = Client::local('/nonexistent/socket', $tcp->address, '');
        self::assertSame([7], iterator_to_array($roster->stream('reports', 'rows')));
        $this->assertThrows(NoMaster::class, static fn () => $roster->stream('reports', 'rows')->current());
        $nowhere = Client::local('/nonexistent/socket', '', '');
        $this->assertThrows(Unavailable::class, static fn () => $nowhere->stream('reports', 'rows')->current());
        $this->assertThrows(InvalidRequest::class, static fn () => $nowhere->stream('reports', 'rows', [static fn () => 1]));
    }

    private function assertThrows(string $class, callable $do): void
    {
        try {
            $do();
        } catch (\Throwable $thrown) {
            self::assertInstanceOf($class, $thrown);
            return;
        }
        self::fail("no $class");
    }

    private static function failure(FakeSidecar $fake): CallFailed
    {
        $stream = Client::local($fake->address, '', '')->stream('reports', 'rows', idempotent: true);
        self::assertSame(1, $stream->current());
        try {
            $stream->next();
        } catch (CallFailed $error) {
            return $error;
        }
        self::fail('it goes on');
    }

    /** @param list<string> $values */
    private static function first(array $values, bool $isAll = false, mixed ...$how): array
    {
        return Answer::of(new Thrift\Roster_startCall_result(['success' => self::told($values, $isAll)]), ...$how);
    }

    /** @param list<string> $values */
    private static function next(array $values, bool $isAll = false): array
    {
        return Answer::of(new Thrift\Roster_nextValues_result(['success' => self::told($values, $isAll)]));
    }

    private static function told(array $values, bool $isAll): Thrift\CallValues
    {
        $values = array_map(static fn (string $json) => MessagePack::pack(json_decode($json, true)), $values);
        $end = new Thrift\CallCompletion(['masterId' => 'm1', 'durationUs' => 1_500, 'attempts' => 1]);
        return new Thrift\CallValues(['values' => $values, 'completion' => $isAll ? $end : null]);
    }
}
