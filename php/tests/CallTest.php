<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Exception\CallFailed;
use Roster\Exception\CallTimedOut;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NoMaster;
use Roster\Exception\Overloaded;
use Roster\Exception\RosterException;
use Roster\Exception\Unavailable;
use Roster\Tests\Support\Answer;
use Roster\Tests\Support\FakeSidecar;
use Roster\Thrift;
use Roster\Timeouts;
use Roster\Wire\MessagePack;
use Thrift\Exception\TApplicationException;

/** A call goes out once, and whatever becomes of it is told. */
final class CallTest extends TestCase
{
    private FakeSidecar $fake;

    public function testTheResultIsDecoded(): void
    {
        $roster = $this->client(self::returned(['{"id":9223372036854775807,"tags":["ü"]}'], pauseMs: 300));
        $result = $roster->call('users', 'find', ['id' => 7, 'price' => 1.0]);
        self::assertSame(['id' => PHP_INT_MAX, 'tags' => ['ü']], $result->value);
        self::assertSame(['m1', 1.5, 1], [$result->master, $result->durationMs, $result->attempts]);
    }

    public function testNothingIsNullAndOfManyValuesTheLastIsTheValue(): void
    {
        self::assertNull($this->client(self::returned([]))->call('users', 'forget')->value);
        $result = $this->client(self::returned(['1', '2']))->call('users', 'list', allValues: true);
        self::assertSame([[1, 2], 2], [$result->values, $result->value]);
    }

    /** @dataProvider errors */
    public function testAnErrorArrivesAsWhatItIs(array $told, string $class): void
    {
        $this->expectException($class);
        $this->expectExceptionMessage('why');
        $this->client(Answer::of(new Thrift\Roster_call_result($told)))->call('users', 'find');
    }

    public static function errors(): array
    {
        $why = ['message' => 'why'];
        $failed = new Thrift\CallFailed($why + ['masterId' => 'm', 'code' => 7, 'lost' => false]);
        return [
            [['noMaster' => new Thrift\NoMaster($why + ['serviceName' => 'users'])], NoMaster::class],
            [['failed' => $failed], CallFailed::class],
            [['timedOut' => new Thrift\CallTimedOut($why + ['timeoutMs' => 5])], CallTimedOut::class],
            [['overloaded' => new Thrift\Overloaded($why)], Overloaded::class],
            [['invalid' => new Thrift\InvalidRequest($why + ['field' => 'method'])], InvalidRequest::class],
        ];
    }

    public function testTheMastersOwnErrorKeepsItsClassAndCode(): void
    {
        $failed = ['masterId' => 'm', 'message' => 'no', 'className' => 'DomainException', 'code' => 7, 'lost' => false];
        $error = self::failure($this->client(Answer::of(
            new Thrift\Roster_call_result(['failed' => new Thrift\CallFailed($failed)])
        )));
        self::assertSame(['DomainException', 7, 'm', false], [
            $error->className, $error->getCode(), $error->master, $error->lost,
        ]);
    }

    public function testWhatMayHaveBeenExecutedIsNotSentAgain(): void
    {
        $closing = self::returned(['2'], cut: 0, close: true);
        $unix = new FakeSidecar([[self::returned(['1']), $closing], [self::returned(['3'])]]);
        $tcp = new FakeSidecar([[self::returned(['4'])]], isTcp: true);
        $roster = Client::local($unix->address, $tcp->address, '');
        self::assertSame(1, $roster->call('users', 'add')->value);
        self::assertTrue(self::failure($roster)->lost);
        $unix->await('connected', 'asked call', 'asked call', 'closed');
        self::assertSame([], $tcp->seen());
    }

    public function testWhatIsIdempotentIsSentAgain(): void
    {
        $unix = new FakeSidecar([[self::returned(['1'], cut: 0, close: true)]]);
        $tcp = new FakeSidecar([[self::returned(['2'])]], isTcp: true);
        $roster = Client::local($unix->address, $tcp->address, '');
        self::assertSame(2, $roster->call('users', 'find', idempotent: true)->value);
    }

    public function testWhatWasNotSentGoesTheNextWay(): void
    {
        $tcp = new FakeSidecar([[self::returned(['2'])]], isTcp: true);
        self::assertSame(2, Client::local('/nonexistent/socket', $tcp->address, '')->call('users', 'add')->value);
    }

    public function testACallHasItsOwnTime(): void
    {
        $fake = new FakeSidecar([[self::returned(['1'], pauseMs: 5_000)]]);
        $roster = Client::local($fake->address, '', '', timeouts: new Timeouts(readMs: 50));
        $began = microtime(true);
        try {
            $roster->call('users', 'add', timeoutMs: 100);
            self::fail('it answered');
        } catch (CallTimedOut $error) {
            self::assertSame(100, $error->timeoutMs);
        }
        self::assertLessThan(4, microtime(true) - $began);
    }

    public function testASidecarThatKnowsNoCallsIsUnavailable(): void
    {
        $this->expectException(Unavailable::class);
        $this->expectExceptionMessage('unknown method call');
        $unknown = new TApplicationException('unknown method call', TApplicationException::UNKNOWN_METHOD);
        $this->client(Answer::of($unknown))->call('a', 'b');
    }

    public function testArgumentsThatCannotBeSentAreRefusedBeforeTheyAreSent(): void
    {
        foreach ([static fn () => 1, (static fn () => yield 1)(), STDIN] as $odd) {
            try {
                Client::local('', '', '')->call('users', 'find', [['of' => $odd]]);
                self::fail('it was sent');
            } catch (InvalidRequest $refusal) {
                self::assertStringContainsString('cannot be sent', $refusal->getMessage());
            }
        }
    }

    public function testWhatIsPackedIsUnpackedAsItWas(): void
    {
        $values = [null, true, 0, 127, 128, -32, -33, PHP_INT_MAX, PHP_INT_MIN, 1.5, INF, '', 'é', "\xff\x00", str_repeat('x', 70_000)];
        $values[] = [[], ['a' => [1]], [3 => 'three'], range(1, 20), array_fill_keys(range(5, 30), null)];
        foreach ($values as $value) {
            self::assertSame($value, MessagePack::unpack(MessagePack::pack($value)));
        }
        self::assertSame('18446744073709551615', MessagePack::unpack("\xcf" . str_repeat("\xff", 8)));
        self::assertSame("\x80", MessagePack::pack(new \stdClass()), 'an empty object is no list');
        $this->expectException(\UnexpectedValueException::class);
        MessagePack::unpack("\xdd\xff\xff\xff\xff");
    }

    private function client(array $answer): Client
    {
        $this->fake = new FakeSidecar([[$answer]]);
        return Client::local($this->fake->address, '', '');
    }

    private static function failure(Client $roster): RosterException
    {
        try {
            $roster->call('users', 'add');
        } catch (CallFailed $error) {
            return $error;
        }
        self::fail('it answered');
    }

    /** @param list<string> $values */
    private static function returned(array $values, mixed ...$how): array
    {
        $values = array_map(static fn (string $json) => MessagePack::pack(json_decode($json, true)), $values);
        $result = ['values' => $values, 'masterId' => 'm1', 'durationUs' => 1_500, 'attempts' => 1];
        return Answer::of(new Thrift\Roster_call_result(['success' => new Thrift\CallResult($result)]), ...$how);
    }
}
