<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Exception\InvalidRequest;
use Roster\Job;
use Roster\JobState;
use Roster\NewJob;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\Roster;

/** Jobs that a client enqueues are kept by a real sidecar. */
final class QueueTest extends TestCase
{
    private Roster $roster;
    private Client $client;

    protected function setUp(): void
    {
        $this->roster = new Roster(['/a' => 'b'], tables: "[queue]\npath = 'queue'\n");
        $this->client = Patient::local($this->roster->socket, '', '');
    }

    public function testAJobIsKeptAsItWasEnqueued(): void
    {
        $args = ['to' => "a@\u{e9}", 'n' => 1.0];
        $id = $this->client->enqueue(
            'mail',
            'SendWelcome',
            $args,
            delayMs: 60_000,
            priority: 2,
            retries: 3,
            attemptTimeoutMs: 5,
        );
        $job = $this->client->job($id);
        self::assertInstanceOf(Job::class, $job);
        self::assertSame($args, $job->args());
        self::assertSame(
            [$id, 'mail', 'SendWelcome', JobState::Delayed, 2, 0, 3, 5, $job->enqueuedAt + 60_000],
            [$job->id, $job->queue, $job->name, $job->state, $job->priority, $job->attempt, $job->retries,
                $job->timeoutMs, $job->stateAt],
        );
        self::assertSame([true, false], [$this->client->cancelJob($id), $this->client->cancelJob($id)]);
        self::assertNull($this->client->job($id));
    }

    public function testAJobTellsItsKeys(): void
    {
        $job = $this->client->job($this->client->enqueue('mail', 'a', unique: 'user 7', limitKey: 'customer 7'));
        self::assertSame(['user 7', 'customer 7', null], [$job->uniqueKey, $job->limitKey, $job->dueAt]);
    }

    public function testAJobWaitsUntilATimeThatIsNamed(): void
    {
        $at = new \DateTimeImmutable('+1 hour', new \DateTimeZone('Asia/Tokyo'));
        $job = $this->client->job($this->client->enqueue('mail', 'a', at: $at));
        self::assertSame(JobState::Delayed, $job->state);
        self::assertEqualsWithDelta((float) $at->format('U.u') * 1_000, $job->stateAt, 5_000);
        $past = $this->client->enqueue('mail', 'b', at: new \DateTime('2001-02-03'));
        self::assertSame(JobState::Waiting, $this->client->job($past)->state);
        $this->expectException(InvalidRequest::class);
        $this->expectExceptionMessage('there is a `delayMs` too');
        $this->client->enqueue('mail', 'c', delayMs: 1, at: $at);
    }

    public function testSeveralAreEnqueuedTogetherAndAUniqueOneOnce(): void
    {
        $ids = $this->client->enqueueMany(['x' => new NewJob('mail', 'a'), 'y' => new NewJob('mail', 'b', unique: 'k')]);
        self::assertSame(['x', 'y'], array_keys($ids));
        self::assertSame($ids['y'], $this->client->enqueue('mail', 'b', unique: 'k'));
        self::assertSame(JobState::Waiting, $this->client->job($ids['x'])->state);
        self::assertSame([], $this->client->job($ids['x'])->args());
    }

    public function testWhatMakesNoSenseIsRefusedAndNothingOfItEnqueued(): void
    {
        try {
            $this->client->enqueueMany([new NewJob('mail', 'a'), new NewJob('mail', '')]);
            self::fail('a job has a name');
        } catch (InvalidRequest $refused) {
            self::assertStringContainsString('0 bytes', $refused->getMessage());
        }
        $this->expectException(InvalidRequest::class);
        new NewJob('mail', 'a', "\xff");
    }
}
