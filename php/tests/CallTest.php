<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Balance;
use Roster\Call;
use Roster\Client;
use Roster\Exception\CallFailed;
use Roster\Exception\CallTimedOut;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NoMaster;
use Roster\Exception\Overloaded;
use Roster\Exception\RosterException;
use Roster\Exception\TransportFailed;
use Roster\Exception\Unavailable;
use Roster\NewJob;
use Roster\Read\Filter;
use Roster\Tests\Support\Answer;
use Roster\Tests\Support\FakeSidecar;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\Patient;
use Roster\Thrift;
use Roster\Timeouts;
use Roster\Transport;
use Roster\Wire\Deadline;
use Roster\Wire\Endpoint;
use Roster\Wire\MessagePack;
use Roster\Wire\Values;
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

    public function testASidecarThatHangsCostsOneTimeOutForEachLongerWait(): void
    {
        $fake = new FakeSidecar([[]]);
        $fake->hang();
        $timeouts = new Timeouts(readMs: 100, totalMs: 5_000, jobsMs: 400);
        $asks = [
            [400, static fn (Endpoint $sidecar) => $sidecar->enqueue([new NewJob('q', 'n')])],
            [400, static fn (Endpoint $sidecar) => $sidecar->call(new Call('a', 'b', timeoutMs: 400))],
            [400, static fn (Endpoint $sidecar) => $sidecar->job(7)],
            [0, static fn (Endpoint $sidecar) => $sidecar->nodes(['/a'], null, new Deadline(5_000))],
        ];
        foreach ($asks as $first) {
            $sidecar = new Endpoint(Transport::Unix, "unix://$fake->address", $timeouts, false, null, restMs: 600_000);
            $vain = -1;
            foreach ([$first, ...$asks] as [$patience, $ask]) {
                try {
                    $ask($sidecar);
                    self::fail('it answered');
                } catch (TransportFailed | CallTimedOut $failure) {
                    self::assertSame($patience <= $vain, $failure->getMessage() === 'it has just timed out');
                }
                $vain = max($vain, $patience);
            }
        }
    }

    public function testATimeoutOfNothingIsRefusedByItsName(): void
    {
        self::assertSame(0, (new Timeouts(jobsMs: 0))->jobsMs);
        $this->expectException(InvalidRequest::class);
        $this->expectExceptionMessage('readMs: 0 ms are no time to wait');
        new Timeouts(readMs: 0);
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

    public function testAMistakeInTheArgumentsIsCalledSoAndClosesNoConnection(): void
    {
        $fake = new FakeSidecar([[self::returned(['1']), self::returned(['2'])]]);
        $roster = Client::local($fake->address, '', '');
        self::assertSame(1, $roster->call('users', 'add')->value);
        $null = 'metadata: `zone` is null; give a string, a number or a bool';
        $mistakes = [
            [$null, static fn () => $roster->call('users', 'add', metadata: ['zone' => null])],
            [$null, static fn () => $roster->masters(metadata: ['zone' => null])],
            [$null, static fn () => $roster->services(metadata: ['zone' => null])],
            [$null, static fn () => $roster->instances('users', metadata: ['zone' => null])],
            [$null, static fn () => $roster->resolve('users', metadata: ['zone' => null])],
            ['metadata: `zone` is array;', static fn () => $roster->call('users', 'add', metadata: ['zone' => []])],
            ['metadata: `zone` is NAN;', static fn () => $roster->call('users', 'add', metadata: ['zone' => NAN])],
            ['calls[a]: it is array, no Roster\Call', static fn () => $roster->callMany(['a' => ['service' => 'x']])],
            ['calls[1]: it is string, no', static fn () => $roster->callInOrder([new Call('a', 'b'), 'x'])],
            ['jobs[0]: it is array, no Roster\NewJob', static fn () => $roster->enqueueMany([['queue' => 'x']])],
        ];
        foreach ($mistakes as [$why, $ask]) {
            try {
                $ask();
                self::fail('it was sent');
            } catch (InvalidRequest $refusal) {
                self::assertStringStartsWith($why, $refusal->getMessage());
            }
        }
        self::assertSame(2, $roster->call('users', 'add')->value);
        $fake->await('connected', 'asked call', 'asked call');
    }

    /** @dataProvider thrown */
    public function testWhatASignalHandlerThrowsIsTheApplications(\Throwable $thrown): void
    {
        $slow = self::returned(['1'], pauseMs: 30_000);
        $unix = new FakeSidecar([[$slow]]);
        $tcp = new FakeSidecar([[self::returned(['2'])]], isTcp: true);
        $roster = Client::local($unix->address, $tcp->address, '', timeouts: Patient::timeouts());
        pcntl_async_signals(true);
        pcntl_signal(SIGALRM, static fn () => throw $thrown);
        pcntl_alarm(1);
        try {
            $roster->call('users', 'find', idempotent: true);
            self::fail('it answered');
        } catch (\Throwable $caught) {
            self::assertSame($thrown, $caught);
        } finally {
            pcntl_alarm(0);
            pcntl_signal(SIGALRM, SIG_DFL);
        }
        self::assertSame([], $tcp->seen());
    }

    public function testASignalHandlerAsksOverAConnectionOfItsOwn(): void
    {
        $folder = new Folder();
        // The fake serves one connection after the other: another one serves the second.
        $fake = new FakeSidecar([[self::returned(['1'], pauseMs: 2_000)]], "$folder->path/one.sock");
        $roster = Client::local($fake->address, '', '', timeouts: Patient::timeouts());
        pcntl_async_signals(true);
        pcntl_signal(SIGALRM, static function () use ($folder, $roster, &$inner, &$other): void {
            rename("$folder->path/one.sock", "$folder->path/old.sock");
            $other = new FakeSidecar([[Answer::nodes(['/a' => 'x'])]], "$folder->path/one.sock");
            $inner = $roster->get('/a')->data;
        });
        pcntl_alarm(1);
        try {
            $outer = $roster->call('users', 'find')->value;
        } finally {
            pcntl_alarm(0);
            pcntl_signal(SIGALRM, SIG_DFL);
        }
        self::assertSame([1, 'x'], [$outer, $inner]);
    }

    public static function thrown(): array
    {
        $of = [new \Exception('too long'), new \Error('too long'), new \JsonException('too long'), new \RuntimeException('too long')];
        return array_map(static fn (\Throwable $thrown) => [$thrown], $of);
    }

    public function testNoTimeIsTooLongOrTooShortToBeSent(): void
    {
        foreach ([PHP_INT_MAX, PHP_INT_MAX - 1, 1 << 32, -5_000] as $ms) {
            self::assertSame(1, $this->client(self::returned(['1'], pauseMs: 20))->call('users', 'find', timeoutMs: $ms)->value);
        }
        $longest = new Timeouts(PHP_INT_MAX, PHP_INT_MAX, PHP_INT_MAX, PHP_INT_MAX);
        $fake = new FakeSidecar([[self::returned(['1'])]]);
        self::assertSame(1, Client::local($fake->address, '', '', timeouts: $longest)->call('users', 'find')->value);
        $calls = [new Call('a', 'b', timeoutMs: PHP_INT_MAX), new Call('a', 'b', timeoutMs: PHP_INT_MAX)];
        $outcomes = [new Thrift\CallOutcome(['masterId' => 'm']), new Thrift\CallOutcome(['masterId' => 'm'])];
        $reply = new Thrift\Roster_callInOrder_result(['success' => new Thrift\CallsReply(['outcomes' => $outcomes])]);
        self::assertCount(2, $this->client(Answer::of($reply))->callInOrder($calls));
        $fake = new FakeSidecar([[Answer::subtree(5, ['/a' => '1']), Answer::watch(6, ['/a' => '2'])]]);
        $watch = Client::local($fake->address, '', '')->watch('/', waitMs: PHP_INT_MAX);
        $watch->next();
        self::assertSame('2', $watch->current()->node->data);
    }

    public function testNumbersOfMoreThan32BitsAreNotOthers(): void
    {
        $call = Values::call(new Call('a', 'b', timeoutMs: (1 << 32) + 1, retries: 1 << 32));
        self::assertSame([0x7fffffff, 0x7fffffff], [$call->timeoutMs, $call->retries]);
        $job = Values::newJob(new NewJob('q', 'n', priority: 1 << 32, retries: -1 << 32));
        self::assertSame([0x7fffffff, -0x80000000], [$job->priority, $job->retries]);
        self::assertSame(0x7fffffff, Values::resolveRequest(['serviceName' => 'a', 'subset' => 1 << 33])->subset);
    }

    public function testAKeyNeedsNoBalance(): void
    {
        $of = static fn (mixed ...$how): array => [(new Call('a', 'b', ...$how))->balance, (new Call('a', 'b', ...$how))->key];
        self::assertSame([Balance::LeastOutstanding, null], $of());
        self::assertSame([Balance::Key, '7'], $of(key: 7));
        self::assertSame([Balance::Key, 'user 7'], $of(key: 'user 7', balance: null));
        self::assertSame([Balance::Random, 'k'], $of(balance: Balance::Random, key: 'k'));
    }

    public function testMetadataAreWrittenAsTheSidecarWritesThem(): void
    {
        $metadata = ['text' => '/ü', 'whole' => 1.0, 'part' => 0.25, 'number' => 7, 'bool' => true];
        $written = ['text' => '/ü', 'whole' => '1.0', 'part' => '0.25', 'number' => '7', 'bool' => 'true'];
        self::assertSame($written, Values::metadata($metadata));
        foreach ($metadata as $key => $value) {
            self::assertTrue(Filter::passes(['metadata' => $metadata], ['metadata' => [$key => $written[$key]]]));
        }
    }

    public function testAValueThatIsCutOffIsAStrangeAnswer(): void
    {
        $result = ['values' => ["\xc6\x00\x00\x01\x00ab"], 'masterId' => 'm1', 'durationUs' => 1, 'attempts' => 1];
        $result = new Thrift\Roster_call_result(['success' => new Thrift\CallResult($result)]);
        $error = self::failure($this->client(Answer::of($result)));
        self::assertSame([true, 'a strange answer: a value of the sidecar is cut off'], [$error->lost, $error->getMessage()]);
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
